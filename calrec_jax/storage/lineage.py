"""The origin of a checkpoint: parent, data, configuration, versions.

`lineage.json` is in a stage's folder and in every checkpoint and metrics file
made from it. A stage that resumes compares it with its own lineage and refuses
changes that would make it a different run.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import pathlib
import platform
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from calrec_jax.errors import CalrecError
from calrec_jax.storage import atomic
from calrec_jax.storage.identity import changes, digest

SCHEMA = 1
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class LineageError(CalrecError, ValueError):
  """A run that does not match the one it would resume."""


def describe(
  *,
  stage: str,
  parent: Mapping[str, Any] | None,
  data: Mapping[str, Any],
  training: Mapping[str, Any],
  configuration: str,
) -> dict[str, Any]:
  """The lineage of a stage.

  Args:
    stage: Name of the stage.
    parent: Path, step and stage of the checkpoint it starts from, or None.
    data: Fingerprint and card digest of every domain.
    training: Everything that determines the run: model, objective, feed, seed.
    configuration: Gin configuration as text.
  """
  return {
    "schema": SCHEMA,
    "stage": stage,
    "parent": dict(parent) if parent else None,
    "data": dict(data),
    "training": dict(training),
    "configuration_sha256": digest(configuration),
    "versions": {
      "calrec_jax": importlib.metadata.version("calrec_jax"),
      "python": platform.python_version(),
      **{name: importlib.metadata.version(name) for name in _PACKAGES},
    },
    "device": jax.devices()[0].device_kind,
  }


def trained_split(record: Mapping[str, Any]) -> str:
  """The split on which the last stage of a lineage was trained."""
  feed = record.get("training", {}).get("feed", {})
  return feed.get("Feed.split", "train")


def temperature(record: Mapping[str, Any]) -> float | None:
  """Temperature of the two towers; None if they were not trained here."""
  objective = record.get("training", {}).get("Objective", {})
  return objective.get("temperature")


def has_language_loss(record: Mapping[str, Any]) -> bool:
  """Whether a model was trained to write texts, as far as is known."""
  objective = record.get("training", {}).get("Objective", {})
  weights = objective.get("alpha", 0.0), objective.get("beta", 0.0)
  return not math.isclose(sum(weights), 1.0)


def refuse_changes(
  before: Mapping[str, Any] | None, now: Mapping[str, Any], folder: pathlib.Path
) -> None:
  """Refuses to resume a run that would not continue bit-exactly.

  Mesh, devices, feed workers, checkpoint periods and versions may change.

  Args:
    before: Lineage in the folder, or None.
    now: Lineage of the run.
    folder: Folder of the stage, with checkpoints.

  Raises:
    LineageError: If values differ, with each of them.
  """
  if before is None:
    raise LineageError(
      f"{folder} holds checkpoints but no lineage.json, which says how "
      "they were made. Give another MODEL_DIR, or remove the folder."
    )
  parts = ("parent", "data", "training")
  changed = changes(
    {key: before[key] for key in parts}, {key: now[key] for key in parts}
  )
  if changed:
    go_on = ""
    if changes({"data": before["data"]}, {"data": now["data"]}):
      go_on = (
        "\nThe log has changed. To go on from this model on the log of today, "
        f"train into a new MODEL_DIR with INITIAL_CHECKPOINT_PATH = "
        f"{str(folder)!r} (stages/continue.gin)."
      )
    raise LineageError(
      f"{folder} holds a run that was started with a different "
      "configuration:\n  "
      + "\n  ".join(changed)
      + "\nGive another MODEL_DIR, undo the change, or remove the folder."
      + go_on
    )


def copy_files(files: Iterable[str], folder: pathlib.Path) -> None:
  """Copies small files into a folder, each atomically."""
  folder.mkdir(parents=True, exist_ok=True)
  for file in map(pathlib.Path, files):
    with atomic.replacing(folder / file.name) as part:
      shutil.copyfile(file, part)


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a JSON file atomically."""
  atomic.write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
