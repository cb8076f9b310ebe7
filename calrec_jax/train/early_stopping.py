"""Stopping a stage that has not improved for a number of validations.

Its state is part of a checkpoint, so that a stage that was killed stops where
it would have stopped. Flax's `EarlyStopping` has neither the step of the best
validation nor a state for JSON, and stops one validation later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


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
  """

  patience: int | None
  rank: Callable[[Mapping[str, float]], float]
  best: float | None = None
  best_step: int | None = None
  waited: int = 0

  def update(self, metrics: Mapping[str, float], step: int) -> bool:
    """Counts a validation; returns whether it is the best so far."""
    if self.patience is None:
      return False
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
    return {k: getattr(self, k) for k in ("best", "best_step", "waited")}

  def resume(self, state: Mapping[str, Any]) -> None:
    """Restores the state of a checkpoint."""
    self.best, self.best_step = state["best"], state["best_step"]
    self.waited = state["waited"]
