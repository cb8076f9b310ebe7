"""The environment in which the TPU compiler keeps quiet without a TPU.

Import it before JAX: JAX asks the TPU library for its surroundings as soon as
both are loaded.
"""

import os

# Nothing is computed on a TPU, so a real one is not taken from anybody either.
os.environ["JAX_PLATFORMS"] = "cpu"
for _variable, _value in {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-16",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  # Else a second process that has loaded the compiler is refused.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}.items():
  os.environ.setdefault(_variable, _value)
