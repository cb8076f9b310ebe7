"""TensorFlow, TFDS and SeqIO without the messages of their start.

The only module that imports TensorFlow; its neighbours take it from here.
Training, evaluation and inference never import it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # It logs every use.

__all__ = ["held_stderr", "registered", "seqio", "tf", "tfds"]


@contextlib.contextmanager
def held_stderr() -> Iterator[None]:
  """Captures the output of native code, and shows it after an error."""
  sys.stderr.flush()
  saved = os.dup(2)
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      yield
    except BaseException:
      sys.stderr.flush()
      held.seek(0)
      os.write(saved, held.read())
      raise
    finally:
      sys.stderr.flush()
      os.dup2(saved, 2)
      os.close(saved)


with held_stderr():
  import seqio
  import tensorflow as tf
  import tensorflow_datasets as tfds
  from absl import logging as absl_logging
  from tensorflow_datasets.core import registered

  tf.config.set_visible_devices([], "GPU")  # The accelerator is JAX's.

absl_logging.set_verbosity(absl_logging.ERROR)
