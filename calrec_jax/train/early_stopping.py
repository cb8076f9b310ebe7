"""Stopping a stage that has not improved for some validations.

Its state is part of a checkpoint, so that a stage that was killed stops where
it would have stopped. Flax's `EarlyStopping` has neither the step of the best
validation nor a state for JSON, and stops one validation later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class EarlyStopping:
  """Counts validations since the best one.

  Attributes:
    patience: Number of validations in a row without a better one after which
      the stage ends; None never ends it.
    best: Rank of the best validation, the larger the better; None before the
      first one.
    best_step: Step of the best validation.
    waited: Number of validations since the best one.
  """

  def __init__(
    self, patience: int | None, rank: Callable[[Mapping[str, float]], float]
  ):
    """Starts a stage.

    Args:
      patience: Number of validations, as above.
      rank: Function of a validation's metrics, as `CheckpointPolicy.rank`.
    """
    self.patience = patience
    self._rank = rank
    self.best: float | None = None
    self.best_step: int | None = None
    self.waited = 0

  def update(self, metrics: Mapping[str, float], step: int) -> bool:
    """Counts a validation; whether it is better than all before."""
    if self.patience is None:
      return False
    rank = self._rank(metrics)
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
    """What a checkpoint holds, fit for JSON; None where it never ends."""
    if self.patience is None:
      return None
    return {
      "best": self.best,
      "best_step": self.best_step,
      "waited": self.waited,
    }

  def resume(self, state: Mapping[str, Any]) -> None:
    """Takes over the state that a checkpoint holds."""
    self.best, self.best_step = state["best"], state["best_step"]
    self.waited = state["waited"]
