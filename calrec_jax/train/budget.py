"""How long a stage trains: by the clock instead of a number of steps.

The speed of the machine is measured on the first steps. From it follows after
how many steps the stage is validated and saved, some ten times in all; at each
of these points it ends if another part would exceed the budget by more than
half. So only the end depends on the clock, not the steps that lead to it: a
stage that is killed resumes bit-exactly, and one with a larger budget goes on.
Tested by `tests/unit/train/test_budget.py`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from calrec_jax.errors import InputError

MACRO = "TRAIN_BUDGET"
_PARTS = 10
_FEWEST_PARTS = 3
# Most of the time that validations may take, where that leaves enough of them.
_VALIDATION_SHARE = 0.15
_MEASURED_SECONDS = 5.0
_MEASURED_STEPS = 8
_UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")


def seconds_of(text: str) -> float:
  """Seconds of a duration such as "90 s", "30 min" or "2 h".

  Raises:
    InputError: for another text.
  """
  match = _DURATION.fullmatch(str(text).strip().lower())
  unit = match and re.sub(r"(seconds?|secs)$", "s", match[2])
  unit = unit and re.sub(r"(minutes?|mins)$", "min", unit)
  unit = unit and re.sub(r"(hours?|hrs?)$", "h", unit)
  unit = unit and re.sub(r"days?$", "d", unit)
  if not match or unit not in _UNITS or float(match[1]) <= 0:
    raise InputError(
      f"{MACRO} = {text!r} is no duration above zero: write '90 s', '30 min' "
      "or '2 h'."
    )
  return float(match[1]) * _UNITS[unit]


def worded(seconds: float) -> str:
  """A duration as people say it: "40 s", "26 min", "3.5 h"."""
  if seconds < 90:
    return f"{max(seconds, 1):.0f} s"
  if seconds < 90 * 60:
    return f"{seconds / 60:.0f} min"
  if seconds < 72 * 3600:
    return f"{seconds / 3600:.1f} h"
  return f"{seconds / 86400:.0f} days"


class Budget:
  """The clock of one stage.

  Attributes:
    seconds: Seconds that the stage may take, those of earlier runs included.
    period: Steps between validations; None until the speed is known.
  """

  def __init__(
    self, seconds: float, clock: Callable[[], float] = time.perf_counter
  ):
    self.seconds, self.period = seconds, None
    self._clock = clock
    self._since = clock()
    self._before = 0.0  # Seconds of earlier runs.
    self._first: float | None = None  # When the first step was over.
    self._timed = 0
    self._part: float | None = None  # Seconds of a part, validation included.
    self._part_since: float | None = None
    self._validation = 0.0

  def used(self) -> float:
    """Seconds of this run and of those before it."""
    return self._before + self._clock() - self._since

  def took(self, validation_seconds: float) -> None:
    """Counts a validation, of which the slowest is planned with."""
    self._validation = max(self._validation, validation_seconds)

  @property
  def measures(self) -> bool:
    """Whether the next steps are to be waited for, as they are timed."""
    return self.period is None

  def step(self) -> float | None:
    """Counts a step that is over; returns seconds per step once known."""
    now = self._clock()
    if self._first is None:
      self._first = now  # It compiled.
      return None
    self._timed += 1
    passed = now - self._first
    enough = passed >= _MEASURED_SECONDS and self._timed >= _MEASURED_STEPS
    if not enough and passed < self.seconds / _PARTS:
      return None
    return passed / self._timed

  def plan(self, step_seconds: float) -> int:
    """Steps between validations at a speed; see `Budget.period`."""
    left = max(self.seconds - self.used(), step_seconds)
    parts = _PARTS
    if self._validation:
      affordable = _VALIDATION_SHARE * left / self._validation
      parts = min(max(int(affordable), _FEWEST_PARTS), _PARTS)
    seconds = max(left / parts - self._validation, 0.0)
    return max(int(seconds / step_seconds), 1)

  def begin(self, period: int) -> None:
    """Takes a period; the first part begins."""
    self.period, self._part_since = period, self._clock()

  def part_over(self) -> None:
    """Counts a part that is over, its validation included."""
    now = self._clock()
    if self._part_since is not None:
      self._part = now - self._part_since
    self._part_since = now

  @property
  def is_over(self) -> bool:
    """Whether another part would exceed the budget by more than its half."""
    return self.used() + (self._part or 0.0) / 2 >= self.seconds

  def state(self) -> dict[str, Any]:
    """The state for a checkpoint, as JSON."""
    return {"period": self.period, "seconds": self.used(), "part": self._part}

  def resume(self, state: Mapping[str, Any]) -> None:
    """Restores the state of a checkpoint."""
    self.period, self._part = state["period"], state["part"]
    self._before = state["seconds"]


def estimate(
  step_seconds: float,
  budget: Budget,
  steps_per_pass: float,
  share: float = 1.0,
) -> str:
  """What a budget buys, as one line.

  Args:
    step_seconds: Seconds of a step.
    budget: The stage's clock, which has a plan.
    steps_per_pass: Steps in which everything is trained on once.
    share: Fraction of TRAIN_BUDGET that is the stage's.
  """
  left = max(budget.seconds - budget.used(), 0.0)
  steps = max(left / step_seconds, 1)
  passes = steps / steps_per_pass
  one = worded(step_seconds * steps_per_pass)
  shown = f"{passes:,.0f}" if passes >= 10 else f"{passes:.2g}"
  line = (
    f"{step_seconds:.2g} s a step: about {steps:,.0f} steps or {shown} "
    f"passes over the data in {worded(left)}; a pass takes {one}; validated "
    f"every {budget.period:,} steps"
  )
  if passes < 0.5:
    line += (
      f". {MACRO} = {worded(step_seconds * steps_per_pass / share)!r} would be "
      "one pass; a GPU or TPU (mesh/gpu.gin) is many times faster"
    )
  return line
