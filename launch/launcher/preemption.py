"""The exit status of a preempted run, read from `launch/preemption.sh`."""

import pathlib
import re

_FILE = pathlib.Path(__file__).parents[1] / "preemption.sh"


def preempted_status() -> int:
  """Exit status of a run that saved its state and can resume.

  Raises:
    ValueError: If the file does not define it.
  """
  found = re.findall(
    r"^PREEMPTED_STATUS=(\d+)$", _FILE.read_text("utf-8"), flags=re.MULTILINE
  )
  if len(found) != 1:
    raise ValueError(f"{_FILE} must set PREEMPTED_STATUS once.")
  return int(found[0])
