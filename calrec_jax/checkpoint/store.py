"""Checkpoints on disk: found, looked into, read, and written by themselves.

Layout, which t5x readers know: `<stage>/checkpoint_<step>/` with `state/`
(`target/...` are the parameters), beside it `feed/` (where the feed resumes),
`lineage/`, `vocabulary/` (what the rows of the embedding mean) and, where the
step was evaluated, `metrics/`. A directory gets its name only when it is
whole. What a stage saves while it trains: `saving.py`. Orbax is called in
these two files alone.
"""

from __future__ import annotations

import json
import logging
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from orbax.checkpoint import type_handlers

from calrec_jax.errors import CalrecError
from calrec_jax.storage import atomic

# Orbax logs every save and read; the progress bar says what matters.
logging.getLogger("absl").setLevel(logging.ERROR)

_STEP_FOLDER = re.compile(r"checkpoint_(\d+)")
# A compressed piece of an array: as much as is held twice while it is written.
_CHUNK_BYTES = 64 * 2**20


class CheckpointError(CalrecError, ValueError):
  """A checkpoint that is absent, broken or of another model."""


def find(path: str | pathlib.Path) -> pathlib.Path:
  """The `checkpoint_<step>` folder that a path means.

  Args:
    path: Path of such a folder, or of a stage's: the checkpoint named by its
      lineage is taken, else the newest.
  """
  folder = pathlib.Path(path).absolute()
  if _STEP_FOLDER.fullmatch(folder.name) and folder.is_dir():
    return folder
  found = steps(folder)
  if not found:
    below = sorted(
      str(child.relative_to(folder.parent))
      for child in (folder.iterdir() if folder.is_dir() else ())
      if child.is_dir() and steps(child)
    )
    hint = f" It holds stages: {', '.join(below)}." if below else ""
    raise CheckpointError(
      f"{folder} holds no checkpoint_<step> folder.{hint} Give a checkpoint, "
      "or the folder of a stage."
    )
  chosen = folder / "handover.json"
  if chosen.exists():
    return folder / json.loads(chosen.read_text())["checkpoint"]
  return folder / f"checkpoint_{found[-1]}"


def step_of(checkpoint: pathlib.Path) -> int:
  """The step that a `checkpoint_<step>` folder is of."""
  return int(checkpoint.name.removeprefix("checkpoint_"))


def steps(folder: pathlib.Path) -> list[int]:
  """Steps of the whole checkpoints in a stage's folder, ascending."""
  if not folder.is_dir():
    return []
  matches = (_STEP_FOLDER.fullmatch(child.name) for child in folder.iterdir())
  return sorted(int(match[1]) for match in matches if match)


def metadata(checkpoint: pathlib.Path) -> dict[str, Any]:
  """Path to shape, dtype and sharding of every array; reads no array."""
  return flatten(_tree(checkpoint))


def read_arrays(checkpoint: pathlib.Path) -> dict[str, np.ndarray]:
  """Every array by its path, in NumPy; for inspection of small models."""
  arguments = jax.tree.map(
    lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
    _tree(checkpoint),
    is_leaf=lambda leaf: hasattr(leaf, "shape"),
  )
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.restore(
      checkpoint / "state", args=ocp.args.PyTreeRestore(restore_args=arguments)
    )
  return flatten(tree)


def restore_params(
  checkpoint: pathlib.Path, abstract: Any, shardings: Any
) -> Any:
  """Reads the parameters alone, onto their devices.

  Args:
    checkpoint: `checkpoint_<step>` folder.
    abstract: Unboxed shapes and dtypes of the parameters.
    shardings: `NamedSharding` of each parameter.

  Raises:
    CheckpointError: with every missing, unexpected and differing array.
  """
  arguments = restore_arguments(
    checkpoint, {"target": abstract}, {"target": shardings}, partial=True
  )
  with ocp.PyTreeCheckpointer() as checkpointer:
    restored = checkpointer.restore(checkpoint / "state", args=arguments)
  return restored["target"]


def restore_arguments(
  checkpoint: pathlib.Path,
  abstract: dict[str, Any],
  shardings: dict[str, Any],
  *,
  partial: bool = False,
) -> ocp.args.PyTreeRestore:
  """How Orbax is to read a state, or parts of it, straight onto its devices.

  Args:
    checkpoint: `checkpoint_<step>` folder.
    abstract: Unboxed shapes and dtypes by part of the state, as `target`.
    shardings: `NamedSharding` of each leaf, on any mesh.
    partial: Whether the checkpoint may hold other parts, which are not read.

  Raises:
    CheckpointError: with every missing, unexpected and differing array.
  """
  _refuse_other_shapes(checkpoint, abstract)
  wanted = jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    abstract,
    shardings,
  )
  return ocp.args.PyTreeRestore(
    wanted,
    restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
    partial_restore=partial,
  )


def read_array(checkpoint: pathlib.Path, path: str) -> np.ndarray:
  """One array of a checkpoint, in NumPy; the others are not touched.

  Args:
    checkpoint: `checkpoint_<step>` folder.
    path: Path of the array, joined by slashes.
  """
  state = checkpoint / "state"
  name = path.replace("/", ".")
  # Orbax would want the whole tree described to read one leaf of it.
  if (state / "manifest.ocdbt").exists():
    store = {"driver": "ocdbt", "base": f"file://{state}", "path": name}
  else:
    store = {"driver": "file", "path": f"{state}/{name}"}
  array = ts.open({"driver": "zarr", "kvstore": store}, read=True).result()
  return np.asarray(array.read().result())


def write_params(
  folder: pathlib.Path,
  params: Mapping[str, np.ndarray],
  *,
  lineage: Mapping[str, Any],
  vocabulary: Mapping[str, Any],
) -> pathlib.Path:
  """Writes parameters alone as a checkpoint of step 0, whole or not at all.

  Args:
    folder: Folder that gets `checkpoint_0`.
    params: Arrays by path. They are not copied: memory-mapped ones are
      written without ever being in memory as a whole.
    lineage: Origin of the parameters.
    vocabulary: Record of what their rows mean.

  Raises:
    FileExistsError: if the folder holds a checkpoint.
  """
  folder = folder.absolute()
  if steps(folder):
    raise FileExistsError(f"{folder} holds a checkpoint already.")
  registry = type_handlers.create_type_handler_registry(
    (np.ndarray, type_handlers.NumpyHandler(deepcopy_host_arrays=False))
  )
  tree = {"target": flax.traverse_util.unflatten_dict(dict(params), sep="/")}
  arguments = jax.tree.map(
    lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES), tree
  )
  handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
  with atomic.new_folder(folder / "checkpoint_0") as partial:
    with ocp.Checkpointer(handler) as checkpointer:
      checkpointer.save(
        partial / "state", args=ocp.args.PyTreeSave(tree, arguments)
      )
    items = {"feed": {"step": 0}, "lineage": lineage, "vocabulary": vocabulary}
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
      for name, value in items.items():
        checkpointer.save(partial / name, args=ocp.args.JsonSave(dict(value)))
  return folder / "checkpoint_0"


def read_json(checkpoint: pathlib.Path, item: str) -> dict[str, Any]:
  """The JSON that a checkpoint holds: `feed`, `lineage`, `vocabulary`, ..."""
  # Orbax names the file of the metrics otherwise than its other JSON.
  handler = ocp.JsonCheckpointHandler("metrics" if item == "metrics" else None)
  with ocp.Checkpointer(handler) as checkpointer:
    return checkpointer.restore(checkpoint / item)


def flatten(tree: Any) -> dict[str, Any]:
  """A tree as a dictionary from slash-joined paths to leaves."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=lambda leaf: hasattr(leaf, "shape")
  )
  return {
    "/".join(_name(entry) for entry in path): leaf for path, leaf in leaves
  }


def _tree(checkpoint: pathlib.Path) -> Any:
  with ocp.PyTreeCheckpointer() as checkpointer:
    return checkpointer.metadata(checkpoint / "state").item_metadata.tree


def _name(entry: Any) -> str:
  for attribute in ("key", "name", "idx"):
    if hasattr(entry, attribute):
      return str(getattr(entry, attribute))
  return str(entry)


def _refuse_other_shapes(
  checkpoint: pathlib.Path, abstract: dict[str, Any]
) -> None:
  stored = {
    path: leaf
    for path, leaf in metadata(checkpoint).items()
    if path.split("/")[0] in abstract
  }
  wanted = flatten(abstract)
  faults = [f"missing {path}" for path in sorted(wanted.keys() - stored.keys())]
  faults += [
    f"unexpected {path}" for path in sorted(stored.keys() - wanted.keys())
  ]
  for path in sorted(wanted.keys() & stored.keys()):
    if tuple(wanted[path].shape) != tuple(stored[path].shape):
      faults.append(
        f"{path} is {tuple(stored[path].shape)}, "
        f"the model wants {tuple(wanted[path].shape)}"
      )
  if faults:
    raise CheckpointError(
      f"{checkpoint} does not match the model (see DecoderConfig): "
      + "; ".join(faults[:8])
      + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
    )
