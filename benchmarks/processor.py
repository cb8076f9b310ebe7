"""The processor that something was measured on."""

import pathlib
import platform


def name() -> str:
  """As its maker calls it, where the system tells; else its architecture."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text("utf-8").splitlines()
  except OSError:
    return platform.processor()
  names = [line for line in lines if line.startswith("model name")]
  return names[0].partition(":")[2].strip() if names else platform.machine()
