"""Checkpoints of a stage: every call of Orbax is in this file.

Layout, which t5x readers know: `<stage>/checkpoint_<step>/` with `state/`
(`target/...` are the parameters), beside it `feed/` (where the feed goes on),
`lineage/`, `vocabulary/` (what the rows of the embedding mean) and, where the
step was evaluated, `metrics/`, where validations may end the stage also
`early_stopping/`. Saving is asynchronous; a directory gets its name only when
it is whole.

What a stage saves when it is told to leave lies apart, in
`<stage>/preempted/checkpoint_<step>/`, so that it takes no other's place among
the newest and is none of the candidates for the best. It holds `unreported/`
too: the sums that the next row of the log needs.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import gin
import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from orbax.checkpoint import checkpoint_managers, type_handlers

from calrec_jax.state import TrainState

# Orbax logs every save and read; the progress bar says what matters.
logging.getLogger("absl").setLevel(logging.ERROR)

EARLY_STOPPING = "early_stopping"
PREEMPTED = "preempted"
UNREPORTED = "unreported"
_STEP_FOLDER = re.compile(r"checkpoint_(\d+)")
# A compressed piece of an array: as much as is held twice while it is written.
_CHUNK_BYTES = 64 * 2**20


class CheckpointError(ValueError):
  """A checkpoint that is absent, broken or of another model."""


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
  """When to save and what to keep.

  Attributes:
    period: steps between checkpoints; the last step is always saved.
    keep: newest checkpoints that stay.
    best_metric: validation metric by which one further checkpoint stays; the
      next stage starts from it. An empty text keeps and hands over the last.
    best_is_highest: whether more of the metric is better.
  """

  period: int = 500
  keep: int = 2
  best_metric: str = "ndcg@10"
  best_is_highest: bool = True

  def __post_init__(self):
    """Refuses periods that save nothing."""
    for name in ("period", "keep"):
      if getattr(self, name) < 1:
        raise ValueError(f"CheckpointPolicy.{name} must be at least 1.")

  def rank(self, metrics: Mapping[str, float]) -> float:
    """The larger, the better."""
    if self.best_metric not in metrics:
      raise CheckpointError(
        f"CheckpointPolicy.best_metric = {self.best_metric!r} is not among "
        f"the validation metrics: {', '.join(sorted(metrics))}."
      )
    value = float(metrics[self.best_metric])
    return value if self.best_is_highest else -value


class Checkpoints:
  """The checkpoints of one stage directory."""

  def __init__(self, folder: pathlib.Path, policy: CheckpointPolicy):
    """Opens the directory; leftovers of a killed save are removed."""
    self.policy = policy
    keep = [checkpoint_managers.LatestN(policy.keep)]
    if policy.best_metric:
      keep.append(
        checkpoint_managers.BestN(
          get_metric_fn=policy.rank,
          n=1,
          keep_checkpoints_without_metrics=False,
        )
      )
    self._manager = ocp.CheckpointManager(
      folder.absolute(),
      options=ocp.CheckpointManagerOptions(
        step_prefix="checkpoint",
        cleanup_tmp_directories=True,
        # Only with it does Orbax store metrics; what stays is up to `keep`.
        best_fn=policy.rank if policy.best_metric else None,
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
        enable_async_checkpointing=True,
        save_root_metadata=False,
      ),
      item_names=(
        *("state", "feed", "lineage", "vocabulary"),
        *(EARLY_STOPPING, UNREPORTED),
      ),
    )
    self.folder = folder

  def latest_step(self) -> int | None:
    """The newest whole checkpoint."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """The step the next stage starts from."""
    steps = self._manager.all_steps()
    if not self.policy.best_metric:
      return max(steps, default=None)
    ranked = []
    for step in steps:
      metrics = self._manager.metrics(step)
      if metrics:
        ranked.append((self.policy.rank(metrics), step))
    # Of equals the later one: it has learned longer.
    return max(ranked)[1] if ranked else max(steps, default=None)

  def save(
    self,
    state: TrainState,
    *,
    step: int,
    feed: Mapping[str, Any],
    lineage: Mapping[str, Any],
    vocabulary: Mapping[str, Any],
    metrics: Mapping[str, float] | None,
    early_stopping: Mapping[str, Any] | None = None,
    unreported: Mapping[str, Any] | None = None,
  ) -> None:
    """Starts saving; returns when the arrays are copied off the devices."""
    records = {"feed": feed, "lineage": lineage, "vocabulary": vocabulary}
    if early_stopping is not None:
      records[EARLY_STOPPING] = early_stopping
    if unreported is not None:
      records[UNREPORTED] = unreported
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeSave(state.on_disk()),
        **{
          name: ocp.args.JsonSave(dict(record))
          for name, record in records.items()
        },
      ),
      metrics=dict(metrics) if metrics else None,
    )

  def restore(
    self, step: int, abstract: TrainState, shardings: TrainState
  ) -> tuple[TrainState, dict[str, Any]]:
    """Reads the state straight onto its devices, and the feed's record.

    Args:
      step: of the checkpoint.
      abstract: unboxed shapes and dtypes.
      shardings: where each leaf goes; any mesh will do.

    Raises:
      CheckpointError: with every missing, further and differing array.
    """
    _refuse_other_shapes(self.folder / f"checkpoint_{step}", abstract.on_disk())
    target = _with_shardings(abstract.on_disk(), shardings.on_disk())
    arguments = ocp.args.Composite(
      state=ocp.args.PyTreeRestore(
        target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
      ),
      feed=ocp.args.JsonRestore(),
    )
    try:
      restored = self._manager.restore(step, args=arguments)
    except (ValueError, KeyError, FileNotFoundError) as error:
      raise CheckpointError(
        f"{self.folder}/checkpoint_{step} does not hold this model's state: "
        f"{str(error).splitlines()[0]}"
      ) from error
    return TrainState.from_disk(restored.state), restored.feed

  def early_stopping(self, step: int) -> dict[str, Any]:
    """What a checkpoint keeps of the validations before it."""
    return read_json(self.folder / f"checkpoint_{step}", EARLY_STOPPING)

  def wait(self) -> None:
    """Returns when all saves are on disk; raises what went wrong in them."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and closes."""
    self._manager.wait_until_finished()
    self._manager.close()


def preempted(folder: pathlib.Path) -> Checkpoints:
  """Where a stage in `folder` saves when it is told to leave; one stays."""
  policy = CheckpointPolicy(period=1, keep=1, best_metric="")
  return Checkpoints(folder / PREEMPTED, policy)


def newest(folder: pathlib.Path) -> pathlib.Path | None:
  """The checkpoint from which a stage in `folder` goes on, if there is one.

  Of the same step the one of `preempted` is the older: what a step entails,
  as its validation, was still to come.
  """
  found = [(step, True) for step in steps(folder)]
  found += [(step, False) for step in steps(folder / PREEMPTED)]
  if not found:
    return None
  step, regular = max(found)
  return (folder if regular else folder / PREEMPTED) / f"checkpoint_{step}"


def find(path: str | pathlib.Path) -> pathlib.Path:
  """The `checkpoint_<step>` folder that a path means.

  Args:
    path: such a folder, or a stage's, of which the checkpoint named by its
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
      checkpoint / "state",
      args=ocp.args.PyTreeRestore(restore_args=arguments),
    )
  return flatten(tree)


def restore_params(
  checkpoint: pathlib.Path, abstract: Any, shardings: Any
) -> Any:
  """Reads the parameters alone, onto their devices.

  Args:
    checkpoint: a `checkpoint_<step>` folder.
    abstract: unboxed shapes and dtypes of the parameters.
    shardings: where each goes.

  Raises:
    CheckpointError: with every missing, further and differing array.
  """
  _refuse_other_shapes(checkpoint, {"target": abstract})
  target = {"target": _with_shardings(abstract, shardings)}
  with ocp.PyTreeCheckpointer() as checkpointer:
    restored = checkpointer.restore(
      checkpoint / "state",
      args=ocp.args.PyTreeRestore(
        target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
      ),
    )
  return restored["target"]


def read_array(checkpoint: pathlib.Path, path: str) -> np.ndarray:
  """One array of a checkpoint, in NumPy; the others are not touched.

  Args:
    checkpoint: a `checkpoint_<step>` folder.
    path: of the array, joined by slashes.
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
    folder: gets `checkpoint_0`.
    params: arrays by path. They are not copied: memory-mapped ones are
      written without ever being in memory as a whole.
    lineage: where they come from.
    vocabulary: what their rows mean.

  Raises:
    FileExistsError: if the folder holds a checkpoint.
  """
  folder = folder.absolute()
  if steps(folder):
    raise FileExistsError(f"{folder} holds a checkpoint already.")
  folder.mkdir(parents=True, exist_ok=True)
  partial = folder / f".checkpoint_0-{os.getpid()}"
  registry = type_handlers.create_type_handler_registry(
    (np.ndarray, type_handlers.NumpyHandler(deepcopy_host_arrays=False))
  )
  tree = {"target": flax.traverse_util.unflatten_dict(dict(params), sep="/")}
  arguments = jax.tree.map(
    lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES), tree
  )
  handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
  try:
    with ocp.Checkpointer(handler) as checkpointer:
      checkpointer.save(
        partial / "state", args=ocp.args.PyTreeSave(tree, arguments)
      )
    items = {"feed": {"step": 0}, "lineage": lineage, "vocabulary": vocabulary}
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
      for name, value in items.items():
        checkpointer.save(partial / name, args=ocp.args.JsonSave(dict(value)))
    partial.rename(folder / "checkpoint_0")
  finally:
    shutil.rmtree(partial, ignore_errors=True)
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


def _with_shardings(abstract: Any, shardings: Any) -> Any:
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    abstract,
    shardings,
  )


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
    f"further {path}" for path in sorted(stored.keys() - wanted.keys())
  ]
  for path in sorted(wanted.keys() & stored.keys()):
    if tuple(wanted[path].shape) != tuple(stored[path].shape):
      faults.append(
        f"{path} is {tuple(stored[path].shape)}, "
        f"the model wants {tuple(wanted[path].shape)}"
      )
  if faults:
    raise CheckpointError(
      f"{checkpoint} is of another model (see DecoderConfig): "
      + "; ".join(faults[:8])
      + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
    )
