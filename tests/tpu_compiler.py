"""The TPU compiler, for tests that ask it something in a process of its own."""

import importlib.util
import os
import pathlib
import sys

import pytest

# Where `launch/test.sh --tpu` puts it; else it may be installed.
FOLDER = os.environ.get("CALREC_TPU_COMPILER", "")

needed = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None
  and not pathlib.Path(FOLDER, "libtpu").is_dir(),
  reason="needs the TPU compiler: launch/test.sh --tpu",
)


def environment() -> dict[str, str]:
  """Of a process that finds it."""
  clean = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  return clean | {"PYTHONPATH": os.pathsep.join([FOLDER, *sys.path])}
