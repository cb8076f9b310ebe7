"""Environment variables of the TPU compiler on a host without a TPU.

Import it before JAX: JAX queries the TPU library as soon as both are loaded.
"""

import os

# Nothing runs on a TPU, so a real one is not claimed.
os.environ["JAX_PLATFORMS"] = "cpu"
for _variable, _value in {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-16",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  # Otherwise a second process that loads the compiler fails.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}.items():
  os.environ.setdefault(_variable, _value)
