"""What the folder of a stage holds beside its checkpoints."""

import json
import pathlib
from typing import Any

SINGLE_STAGE = "train"  # The folder of a recipe that names no STAGES.
HANDOVER = "handover.json"


def handover(stage_folder: pathlib.Path) -> dict[str, Any] | None:
  """What a finished stage hands to the next one; None if it is not finished."""
  path = stage_folder / HANDOVER
  return json.loads(path.read_text()) if path.exists() else None


def lineage_of(stage_folder: pathlib.Path) -> dict[str, Any] | None:
  """The lineage that a stage wrote; None if it never started."""
  path = stage_folder / "lineage.json"
  return json.loads(path.read_text()) if path.exists() else None
