"""Stopping a stage that has not become better for some validations.

What it remembers is part of a checkpoint, so that a stage that was killed
stops where it would have stopped. Tested by
`tests/unit/test_early_stopping.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class EarlyStopping:
  """Counts validations since the best one.

  Attributes:
    patience: so many validations in a row without a better one are the end;
      None never ends.
    best: rank of the best validation, the larger the better; None before the
      first one.
    best_step: its step.
    waited: validations since then.
  """

  def __init__(
    self, patience: int | None, rank: Callable[[Mapping[str, float]], float]
  ):
    """Starts a stage.

    Args:
      patience: see above.
      rank: of a validation's metrics, such as `CheckpointPolicy.rank`.
    """
    self.patience = patience
    self._rank = rank
    self.best: float | None = None
    self.best_step: int | None = None
    self.waited = 0

  def see(self, metrics: Mapping[str, float], step: int) -> bool:
    """Takes a validation; whether it is better than all before."""
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
    """Whether the patience is at its end."""
    return self.patience is not None and self.waited >= self.patience

  def state(self) -> dict[str, Any] | None:
    """What a checkpoint keeps, fit for JSON; None where it never ends."""
    if self.patience is None:
      return None
    return {
      "best": self.best,
      "best_step": self.best_step,
      "waited": self.waited,
    }

  def resume(self, state: Mapping[str, Any]) -> None:
    """Goes on from what a checkpoint kept."""
    self.best, self.best_step = state["best"], state["best_step"]
    self.waited = state["waited"]
