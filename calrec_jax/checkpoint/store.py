"""Checkpoints on disk: finding, inspecting, reading and writing them.

Layout, readable by t5x: `<stage>/checkpoint_<step>/` holds `state/` (parameters
in `target/...`), `feed/` (where the feed resumes), `lineage/`, `vocabulary/`
(what the rows of the embedding mean) and, if the step was validated,
`metrics/`. A directory gets its name only when it is complete. Only this file
and `train/checkpointing.py`, which saves while a stage trains, call Orbax.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from orbax.checkpoint import type_handlers

from calrec_jax.checkpoint import stage_folder
from calrec_jax.errors import CalrecError
from calrec_jax.storage import atomic, identity

# Orbax logs every save and read; the progress bar says what matters.
logging.getLogger("absl").setLevel(logging.ERROR)

METRICS = "metrics"  # The item of a checkpoint whose step was validated.
_STEP_FOLDER = re.compile(r"checkpoint_(\d+)")
# Size of a compressed chunk of an array: held twice while it is written.
_CHUNK_BYTES = 64 * 2**20


class CheckpointError(CalrecError, ValueError):
  """A checkpoint that is missing, damaged or does not match the model."""


def find(path: str | pathlib.Path) -> pathlib.Path:
  """Resolves a path to a `checkpoint_<step>` folder.

  Args:
    path: Path of such a folder, or of a stage's folder, which means the
      checkpoint that the next stage starts from or, without one, the newest. A
      run's folder, its MODEL_DIR, means its last finished stage.
  """
  folder = pathlib.Path(path).absolute()
  if is_checkpoint(folder):
    return folder
  found = steps(folder)
  if not found and (last := last_stage(folder)) is not None:
    folder, found = last, steps(last)
  if not found:
    raise CheckpointError(_none_found(folder))
  chosen = stage_folder.handover(folder)
  if chosen is None:
    return folder / f"checkpoint_{found[-1]}"
  if not (folder / chosen["checkpoint"]).is_dir():
    raise CheckpointError(
      f"{folder} has handed over {chosen['checkpoint']}, which is missing. "
      "Restore it, name another one (there is "
      f"{', '.join(f'checkpoint_{step}' for step in found)}), or train again: "
      "the same `calrec train` makes it anew."
    )
  return folder / chosen["checkpoint"]


def _none_found(folder: pathlib.Path) -> str:
  """Why a folder gives no checkpoint, and what would."""
  below = sorted(
    f"{folder.name}/{child.name}" for child in folder.glob("*") if steps(child)
  )
  if f"{folder.name}/preempted" in below:
    return (
      f"{folder} is not trained to its end: it was interrupted before its "
      "first checkpoint. Rerun `calrec train` with the same gin files and "
      "flags, or give its folder `preempted` as the checkpoint."
    )
  if below:
    return (
      f"{folder} holds no checkpoint_<step> folder. It holds stages: "
      f"{', '.join(below)}. Give a checkpoint, or the folder of a stage."
    )
  return (
    f"{folder} holds no checkpoint_<step> folder. Train first, by `calrec "
    "train` with the same gin files and flags; or give a checkpoint, or the "
    "folder of a stage."
  )


def is_checkpoint(folder: pathlib.Path) -> bool:
  """Whether a path is that of a `checkpoint_<step>` folder."""
  return bool(_STEP_FOLDER.fullmatch(folder.name)) and folder.is_dir()


def last_stage(run: pathlib.Path) -> pathlib.Path | None:
  """The folder of a run's last finished stage.

  Args:
    run: Folder of the run, with a folder for each stage.

  Returns:
    The finished stage that no other one started from, of several the one that
    finished last, but no member that is only fused with others. Without a
    finished stage, the only one with checkpoints; None if there is none, or
    several.
  """
  if not run.is_dir():
    return None
  begun = [
    child
    for child in sorted(run.iterdir())
    # In a stage's own folder it holds what an interrupted run has saved.
    if child.name != "preempted" and steps(child)
  ]
  records = {child: stage_folder.handover(child) for child in begun}
  finished = {
    child: record
    for child, record in records.items()
    if record and (child / record["checkpoint"]).is_dir()
  }
  if all(record.get("member") for record in finished.values()):
    # What they are fused with is not finished, or there is nothing else.
    others = [child for child in begun if child not in finished]
    return others[0] if len(others) == 1 else None
  parents = {
    ((stage_folder.lineage_of(child) or {}).get("parent") or {}).get(
      "lineage_sha256"
    )
    for child in finished
  }
  last = [
    child
    for child, record in finished.items()
    if identity.digest(read_json(child / record["checkpoint"], "lineage"))
    not in parents
  ]
  chained = [child for child in last if not finished[child].get("member")]
  return max(
    chained or last or finished,
    key=lambda child: (child / stage_folder.HANDOVER).stat().st_mtime_ns,
  )


def step_of(checkpoint: pathlib.Path) -> int:
  """The step of a `checkpoint_<step>` folder."""
  return int(checkpoint.name.removeprefix("checkpoint_"))


def steps(folder: pathlib.Path) -> list[int]:
  """Steps of the complete checkpoints in a stage's folder, ascending."""
  if not folder.is_dir():
    return []
  matches = (_STEP_FOLDER.fullmatch(child.name) for child in folder.iterdir())
  return sorted(int(match[1]) for match in matches if match)


def metadata(checkpoint: pathlib.Path) -> dict[str, Any]:
  """Shape, dtype and sharding of every array by path; reads no array."""
  return flatten(_tree(checkpoint))


def read_arrays(checkpoint: pathlib.Path) -> dict[str, np.ndarray]:
  """Every array by its path, as NumPy arrays; for inspecting small models."""
  arguments = jax.tree.map(
    lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
    _tree(checkpoint),
    is_leaf=lambda leaf: hasattr(leaf, "shape"),
  )
  with _damage_named(checkpoint), ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.restore(
      checkpoint / "state", args=ocp.args.PyTreeRestore(restore_args=arguments)
    )
  return flatten(tree)


def restore_params(
  checkpoint: pathlib.Path, abstract: Any, shardings: Any
) -> Any:
  """Reads only the parameters, onto their devices; see `restore_arguments`."""
  arguments = restore_arguments(
    checkpoint, {"target": abstract}, {"target": shardings}, partial=True
  )
  with _damage_named(checkpoint), ocp.PyTreeCheckpointer() as checkpointer:
    restored = checkpointer.restore(checkpoint / "state", args=arguments)
  return restored["target"]


def restore_arguments(
  checkpoint: pathlib.Path,
  abstract: dict[str, Any],
  shardings: dict[str, Any],
  *,
  partial: bool = False,
) -> ocp.args.PyTreeRestore:
  """Orbax's arguments to read a state, or parts of it, onto its devices.

  Args:
    checkpoint: `checkpoint_<step>` folder.
    abstract: Unboxed shapes and dtypes by part of the state, such as `target`.
    shardings: `NamedSharding` of each leaf, on any mesh.
    partial: Whether the checkpoint may hold other parts, which are not read.

  Raises:
    CheckpointError: with every missing, unexpected and mismatched array.
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
  """One array of a checkpoint by its slash-joined path, as a NumPy array."""
  state = checkpoint / "state"
  name = path.replace("/", ".")
  # Orbax needs the whole tree to read one leaf of it.
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
  """Writes only parameters, as a checkpoint of step 0, atomically.

  Args:
    folder: Folder of the new `checkpoint_0`.
    params: Arrays by path. They are not copied: memory-mapped arrays are
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
  """A JSON item of a checkpoint: `feed`, `lineage`, `vocabulary`, ..."""
  # Orbax names the file of the metrics differently.
  handler = ocp.JsonCheckpointHandler(METRICS if item == METRICS else None)
  with _damage_named(checkpoint), ocp.Checkpointer(handler) as checkpointer:
    return checkpointer.restore(checkpoint / item)


def add_json(
  checkpoint: pathlib.Path, item: str, value: Mapping[str, Any]
) -> None:
  """Adds a JSON item to a complete checkpoint, or replaces it; atomically."""
  path = checkpoint / item
  shutil.rmtree(path, ignore_errors=True)
  with atomic.new_folder(path) as partial:
    name = METRICS if item == METRICS else "metadata"
    (partial / name).write_text(json.dumps(dict(value)), "utf-8")


def flatten(tree: Any) -> dict[str, Any]:
  """The leaves of a tree by their slash-joined paths."""
  leaves = jax.tree_util.tree_leaves_with_path(
    tree, is_leaf=lambda leaf: hasattr(leaf, "shape")
  )
  keystr = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
  return {keystr(path): leaf for path, leaf in leaves}


def _tree(checkpoint: pathlib.Path) -> Any:
  with _damage_named(checkpoint), ocp.PyTreeCheckpointer() as checkpointer:
    found = checkpointer.metadata(checkpoint / "state").item_metadata
    if found is None:
      raise FileNotFoundError("files of state/ are missing or cut")
    return found.tree


@contextlib.contextmanager
def _damage_named(checkpoint: pathlib.Path) -> Iterator[None]:
  """Turns an error of Orbax into one that names the checkpoint.

  It reports a missing or truncated file in many ways, over many lines.
  """
  try:
    yield
  except CheckpointError:
    raise
  except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
    lines = str(error).splitlines() or [type(error).__name__]
    fault = lines[0][:200].rstrip(".")
    raise CheckpointError(
      f"{checkpoint} is damaged or incomplete: {fault}. Copy it again, or give "
      "another checkpoint; in training, remove it to go on from the one before."
    ) from error


def _refuse_other_shapes(
  checkpoint: pathlib.Path, abstract: dict[str, Any]
) -> None:
  stored = {
    path: tuple(leaf.shape)
    for path, leaf in metadata(checkpoint).items()
    if path.split("/")[0] in abstract
  }
  wanted = {path: leaf.shape for path, leaf in flatten(abstract).items()}
  faults = [f"missing {path}" for path in sorted(wanted.keys() - stored.keys())]
  faults += [
    f"unexpected {path}" for path in sorted(stored.keys() - wanted.keys())
  ]
  faults += [
    f"{path} is {stored[path]}, the model wants {wanted[path]}"
    for path in sorted(wanted.keys() & stored.keys())
    if wanted[path] != stored[path]
  ]
  if faults:
    raise CheckpointError(
      f"{checkpoint} does not match the model (see DecoderConfig): "
      + "; ".join(faults[:8])
      + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
    )
