"""Records in the folder of a stage, next to its checkpoints."""

import json
import pathlib
from typing import Any

SINGLE_STAGE = "train"  # The folder of a recipe that names no STAGES.
HANDOVER = "handover.json"


def handover(stage_folder: pathlib.Path) -> dict[str, Any] | None:
  """What a finished stage hands to the next one; None if it is not finished."""
  return _read(stage_folder / HANDOVER)


def lineage_of(stage_folder: pathlib.Path) -> dict[str, Any] | None:
  """The lineage that a stage wrote; None if it never started."""
  return _read(stage_folder / "lineage.json")


def _read(path: pathlib.Path) -> dict[str, Any] | None:
  return json.loads(path.read_text("utf-8")) if path.exists() else None
