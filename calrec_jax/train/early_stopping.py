"""Stopping a stage that has not improved for a number of validations.

Its state is part of a checkpoint, so that a stage that was killed stops where
it would have stopped. Flax's `EarlyStopping` has neither the step of the best
validation nor a state for JSON, and stops one validation later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

_STATE = ("best", "best_step", "waited", "counted_step")


@dataclasses.dataclass
class EarlyStopping:
  """Counts validations since the best one.

  Attributes:
    patience: Number of consecutive validations without improvement after which
      the stage ends; None never ends it.
    rank: Function from a validation's metrics to its rank, the larger the
      better, such as `CheckpointPolicy.rank`.
    best: Rank of the best validation; None before the first one.
    best_step: Step of the best validation.
    waited: Number of validations since the best one.
    counted_step: Step of the last validation; None before the first one.
  """

  patience: int | None
  rank: Callable[[Mapping[str, float]], float]
  best: float | None = None
  best_step: int | None = None
  waited: int = 0
  counted_step: int | None = None

  def update(self, metrics: Mapping[str, float], step: int) -> bool:
    """Counts a validation; returns whether it is the best so far.

    One that is repeated, since the stage was killed after it, counts once.
    """
    if self.patience is None:
      return False
    if step == self.counted_step:
      return step == self.best_step
    self.counted_step = step
    rank = self.rank(metrics)
    if self.best is None or rank > self.best:
      self.best, self.best_step, self.waited = rank, step, 0
      return True
    self.waited += 1
    return False

  @property
  def is_over(self) -> bool:
    """Whether the patience is exhausted."""
    return self.patience is not None and self.waited >= self.patience

  def state(self) -> dict[str, Any] | None:
    """The state for a checkpoint, as JSON; None without patience."""
    if self.patience is None:
      return None
    return {name: getattr(self, name) for name in _STATE}

  def resume(self, state: Mapping[str, Any]) -> None:
    """Restores the state of a checkpoint."""
    for name in _STATE:  # Earlier checkpoints have no `counted_step`.
      setattr(self, name, state.get(name))
