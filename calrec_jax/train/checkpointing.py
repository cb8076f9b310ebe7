"""Checkpoints of a stage in training: when to save, and which to retain.

A checkpoint holds the items of `calrec_jax.checkpoint.store` and, if
validations may end the stage, `early_stopping/`; if the clock may, `budget/`.
Saving is asynchronous.

Where a step is validated too, its checkpoint is saved before, so that a failure
in the validation loses no step, and gets `early_stopping/` and `metrics/`
after it; one without them is validated when the stage resumes.

A preempted stage saves separately, in `<stage>/preempted/checkpoint_<step>/`:
that checkpoint replaces no other one and is no candidate for the best. It also
holds `unreported/`: the sums that the next row of the log needs.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import gin
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from calrec_jax.checkpoint import store
from calrec_jax.checkpoint.store import (
  CheckpointError,
  restore_arguments,
  steps,
)
from calrec_jax.errors import at_least, check, optional
from calrec_jax.runtime import distributed
from calrec_jax.train.state import TrainState

EARLY_STOPPING = "early_stopping"
BUDGET = "budget"
PREEMPTED = "preempted"
UNREPORTED = "unreported"


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
  """When to save and what to retain.

  Attributes:
    period: Steps between checkpoints; the last step is always saved. None saves
      whatever TRAIN_BUDGET validates.
    keep: Number of newest checkpoints that are retained.
    best_metric: Validation metric of one more retained checkpoint, the best,
      from which the next stage starts. If empty, it starts from the last one.
    best_is_highest: Whether a larger value of the metric is better.
  """

  period: int | None = 500
  keep: int = 2
  best_metric: str = "ndcg@10"
  best_is_highest: bool = True

  def __post_init__(self):
    """Checks the ranges."""
    check(self, period=optional(at_least(1)), keep=at_least(1))

  def rank(self, metrics: Mapping[str, float]) -> float:
    """Rank of a checkpoint by its metrics; the larger, the better."""
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
    """Opens the directory; removes the leftovers of a killed save."""
    self.policy, self.folder = policy, folder
    keep: list[checkpoint_managers.PreservationPolicy] = [
      checkpoint_managers.LatestN(policy.keep)
    ]
    if policy.best_metric:
      keep.append(
        checkpoint_managers.BestN(
          get_metric_fn=policy.rank, n=1, keep_checkpoints_without_metrics=False
        )
      )
    self._manager = ocp.CheckpointManager(
      folder.absolute(),
      options=ocp.CheckpointManagerOptions(
        step_prefix="checkpoint",
        cleanup_tmp_directories=True,
        # Without it Orbax stores no metrics; `keep` decides what is retained.
        best_fn=policy.rank if policy.best_metric else None,
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
        enable_async_checkpointing=True,
        save_root_metadata=False,
      ),
      item_names=(
        *("state", "feed", "lineage", "vocabulary"),
        *(EARLY_STOPPING, BUDGET, UNREPORTED),
      ),
    )

  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """Step of the checkpoint that the next stage starts from."""
    steps = self._manager.all_steps()
    ranked = [
      (self.policy.rank(metrics), step)
      for step in (steps if self.policy.best_metric else ())
      if (metrics := self._manager.metrics(step))
    ]
    # Of equal ranks the later step: it has trained longer.
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
    budget: Mapping[str, Any] | None = None,
    unreported: Mapping[str, Any] | None = None,
  ) -> None:
    """Starts saving; returns when the arrays are copied off the devices."""
    records = {
      "feed": feed,
      "lineage": lineage,
      "vocabulary": vocabulary,
      EARLY_STOPPING: early_stopping,
      BUDGET: budget,
      UNREPORTED: unreported,
    }
    items = {
      name: ocp.args.JsonSave(dict(record))
      for name, record in records.items()
      if record is not None
    }
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeSave(state.on_disk()), **items
      ),
      metrics=dict(metrics) if metrics else None,
    )

  def add_validation(
    self,
    step: int,
    metrics: Mapping[str, float],
    early_stopping: Mapping[str, Any] | None,
  ) -> None:
    """Adds what a validation found to the checkpoint that was saved before it.

    Checkpoints that are retained no longer are removed.

    Args:
      step: Step of the checkpoint, which may still be in the process of saving.
      metrics: Metrics of the validation; the last thing that is written.
      early_stopping: State of early stopping after it, if there is any.
    """
    self.wait()
    if jax.process_index() == 0:
      checkpoint = self.folder / f"checkpoint_{step}"
      if early_stopping is not None:
        store.add_json(checkpoint, EARLY_STOPPING, early_stopping)
      if self.policy.best_metric:
        store.add_json(checkpoint, store.METRICS, metrics)
    distributed.together("the validation is in the checkpoint")
    self._manager.reload()
    steps = sorted(self._manager.all_steps())
    retained = {*steps[-self.policy.keep :], self.best_step()}
    for old in steps:
      if old not in retained:
        self._manager.delete(old)

  def restore(
    self, step: int, abstract: TrainState, shardings: TrainState
  ) -> tuple[TrainState, dict[str, Any]]:
    """Reads the state directly onto its devices, and the feed's record.

    Args:
      step: Step of the checkpoint.
      abstract: Unboxed shapes and dtypes.
      shardings: `NamedSharding` of each leaf, on any mesh.

    Raises:
      CheckpointError: with every missing, unexpected and mismatched array.
    """
    arguments = ocp.args.Composite(
      state=restore_arguments(
        self.folder / f"checkpoint_{step}",
        abstract.on_disk(),
        shardings.on_disk(),
      ),
      feed=ocp.args.JsonRestore(),
    )
    try:
      restored: Any = self._manager.restore(step, args=arguments)
    except (ValueError, KeyError, FileNotFoundError) as error:
      raise CheckpointError(
        f"{self.folder}/checkpoint_{step} is damaged, or does not hold this "
        f"model's state: {str(error).splitlines()[0][:200]}. Copy it again, or "
        "remove it to go on from the one before."
      ) from error
    return TrainState.from_disk(restored.state), restored.feed

  def wait(self) -> None:
    """Returns when all saves are on disk; raises their errors."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and closes."""
    self.wait()
    self._manager.close()


def preempted(folder: pathlib.Path) -> Checkpoints:
  """The checkpoint that a stage in `folder` saves when it is preempted."""
  policy = CheckpointPolicy(period=1, keep=1, best_metric="")
  return Checkpoints(folder / PREEMPTED, policy)


def newest(
  folder: pathlib.Path, before: int | None = None
) -> pathlib.Path | None:
  """The checkpoint from which a stage in `folder` resumes, if there is one.

  Args:
    folder: Folder of the stage.
    before: Step, exclusive, of which only earlier ones count; None counts all.

  At the same step the one of `preempted` is older: it was saved before what
  follows the step, such as its validation.
  """
  found = [(step, True, folder) for step in steps(folder)]
  found += [
    (step, False, folder / PREEMPTED) for step in steps(folder / PREEMPTED)
  ]
  found = [each for each in found if before is None or each[0] < before]
  if not found:
    return None
  step, _, parent = max(found)
  return parent / f"checkpoint_{step}"
