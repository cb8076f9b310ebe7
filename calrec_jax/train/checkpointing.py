"""What a stage saves while it trains, when, and how much of it is retained.

A checkpoint holds what `calrec_jax.checkpoint.store` lists and, where
validations may end the stage, `early_stopping/`. Saving is asynchronous.

What a stage saves when it is preempted lies apart, in
`<stage>/preempted/checkpoint_<step>/`, so that it displaces none of the newest
and is no candidate for the best. It also holds `unreported/`: the sums that
the next row of the log needs.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import gin
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from calrec_jax.checkpoint.store import (
  CheckpointError,
  read_json,
  restore_arguments,
  steps,
)
from calrec_jax.errors import at_least, check
from calrec_jax.train.state import TrainState

EARLY_STOPPING = "early_stopping"
PREEMPTED = "preempted"
UNREPORTED = "unreported"


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
  """When to save and what to retain.

  Attributes:
    period: Steps between checkpoints; the last step is always saved.
    keep: Number of newest checkpoints that are retained.
    best_metric: Validation metric by which one more checkpoint is retained; the
      next stage starts from it. With an empty text it starts from the last.
    best_is_highest: Whether a larger value of the metric is better.
  """

  period: int = 500
  keep: int = 2
  best_metric: str = "ndcg@10"
  best_is_highest: bool = True

  def __post_init__(self):
    """Refuses periods that save nothing."""
    check(self, period=at_least(1), keep=at_least(1))

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
          get_metric_fn=policy.rank, n=1, keep_checkpoints_without_metrics=False
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
      step: Step of the checkpoint.
      abstract: Unboxed shapes and dtypes.
      shardings: `NamedSharding` of each leaf, on any mesh.

    Raises:
      CheckpointError: with every missing, unexpected and differing array.
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
      restored = self._manager.restore(step, args=arguments)
    except (ValueError, KeyError, FileNotFoundError) as error:
      raise CheckpointError(
        f"{self.folder}/checkpoint_{step} does not hold this model's state: "
        f"{str(error).splitlines()[0]}"
      ) from error
    return TrainState.from_disk(restored.state), restored.feed

  def early_stopping(self, step: int) -> dict[str, Any]:
    """State of early stopping in a checkpoint."""
    return read_json(self.folder / f"checkpoint_{step}", EARLY_STOPPING)

  def wait(self) -> None:
    """Returns when all saves are on disk; raises what went wrong in them."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and closes."""
    self._manager.wait_until_finished()
    self._manager.close()


def preempted(folder: pathlib.Path) -> Checkpoints:
  """Where a stage in `folder` saves when it is preempted; one is retained."""
  policy = CheckpointPolicy(period=1, keep=1, best_metric="")
  return Checkpoints(folder / PREEMPTED, policy)


def newest(folder: pathlib.Path) -> pathlib.Path | None:
  """The checkpoint from which a stage in `folder` resumes, if there is one.

  Of the same step the one of `preempted` is the older: what a step entails,
  as its validation, was still to come.
  """
  found = [(step, True) for step in steps(folder)]
  found += [(step, False) for step in steps(folder / PREEMPTED)]
  if not found:
    return None
  step, regular = max(found)
  return (folder if regular else folder / PREEMPTED) / f"checkpoint_{step}"
