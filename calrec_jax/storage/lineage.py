"""Where a checkpoint comes from: parent, data, configuration, versions.

`lineage.json` lies in a stage's folder and in every checkpoint and metrics
file made from it. A stage that goes on compares it with what it is asked to
do and refuses a change that would make another run of it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import pathlib
import platform
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from calrec_jax.errors import CalrecError
from calrec_jax.storage import atomic

SCHEMA = 1
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class LineageError(CalrecError, ValueError):
  """A run that would go on from something it was not started as."""


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
    stage: its name.
    parent: path, step and stage of the checkpoint it starts from, or None.
    data: fingerprint and card digest of every domain.
    training: what decides the bits of the run: model, objective, feed, seed.
    configuration: the gin text.
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
  """The split whose targets the last stage of a lineage learned."""
  feed = record.get("training", {}).get("feed", {})
  return feed.get("Feed.split", "train")


def digest(value: Any) -> str:
  """sha256 of a text, or of a JSON value with sorted keys."""
  if not isinstance(value, str):
    value = json.dumps(value, sort_keys=True, default=str)
  return hashlib.sha256(value.encode()).hexdigest()


def plain(value: Any) -> Any:
  """The value as JSON gives it back: lists for tuples."""
  if isinstance(value, Mapping):
    return {key: plain(child) for key, child in value.items()}
  if isinstance(value, tuple | list):
    return [plain(child) for child in value]
  return value


def refuse_changes(
  before: Mapping[str, Any] | None, now: Mapping[str, Any], folder: pathlib.Path
) -> None:
  """Refuses to continue a run whose bits would differ.

  Mesh, devices, feed workers, checkpoint periods and versions may change.

  Args:
    before: the lineage in the folder; None where it has none.
    now: that of the run.
    folder: of the stage, which holds checkpoints.

  Raises:
    LineageError: names every changed value.
  """
  if before is None:
    raise LineageError(
      f"{folder} holds checkpoints but no lineage.json, which says what they "
      "are of. Give another MODEL_DIR, or remove the folder."
    )
  parts = ("parent", "data", "training")
  changed = changes(
    {key: before[key] for key in parts}, {key: now[key] for key in parts}
  )
  if changed:
    raise LineageError(
      f"{folder} holds a run that was started with a different "
      "configuration:\n  "
      + "\n  ".join(changed)
      + "\nGive another MODEL_DIR, undo the change, or remove the folder."
    )


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
  """What differs between two records, by the path of the value."""
  old, new = _flat(before), _flat(now)
  return [
    f"{key}: was {old.get(key)!r}, is {new.get(key)!r}"
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key)
  ]


def copy_files(files: Iterable[str], folder: pathlib.Path) -> None:
  """Copies small files into a folder, each atomically."""
  folder.mkdir(parents=True, exist_ok=True)
  for file in map(pathlib.Path, files):
    with atomic.replacing(folder / file.name) as part:
      shutil.copyfile(file, part)


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a JSON file atomically."""
  atomic.write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
  if isinstance(value, Mapping):
    parts: dict[str, Any] = {}
    for key, child in value.items():
      parts.update(_flat(child, f"{prefix}.{key}" if prefix else str(key)))
    return parts
  return {prefix: value}
