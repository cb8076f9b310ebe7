"""The name of the processor."""

import pathlib
import platform


def name() -> str:
  """The model name if the system has it, else the architecture."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text("utf-8").splitlines()
  except OSError:
    return platform.processor()
  names = [line for line in lines if line.startswith("model name")]
  return names[0].partition(":")[2].strip() if names else platform.machine()
