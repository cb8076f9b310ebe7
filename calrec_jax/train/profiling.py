"""A window of steps that JAX's profiler records, chosen by gin."""

from __future__ import annotations

import dataclasses
import pathlib

import gin
import jax

from calrec_jax.errors import InputError

FOLDER = "profile"


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileWindow:
  """Which steps are recorded.

  Attributes:
    first_step: number of the first one, counted as in `metrics.jsonl`; None
      records nothing. A run's first step compiles, so take a later one.
    steps: how many are recorded; a trace of some steps is large already.
  """

  first_step: int | None = None
  steps: int = 3

  def __post_init__(self):
    """Refuses windows without a step."""
    if self.first_step is not None and self.first_step < 1:
      raise InputError("ProfileWindow.first_step must be at least 1.")
    if self.steps < 1:
      raise InputError("ProfileWindow.steps must be at least 1.")


NOTHING = ProfileWindow()


class Profiler:
  """Starts and stops the recording; every process records its own devices."""

  def __init__(self, window: ProfileWindow, folder: pathlib.Path):
    """Records nothing yet.

    Args:
      window: the steps.
      folder: of the stage; TensorBoard's profile page, or xprof, reads
        `profile` in it.
    """
    self._window, self._folder = window, folder / FOLDER
    self._running = False

  def before(self, step: int) -> None:
    """Called before the step of this number is made."""
    if step == self._window.first_step:
      jax.profiler.start_trace(str(self._folder))
      self._running = True

  def after(self, step: int, results: object) -> pathlib.Path | None:
    """Called when a step was handed to the devices, with what it gives.

    Returns:
      The folder, where the recording has just ended.
    """
    if not self._running:
      return None
    if step < (self._window.first_step or 0) + self._window.steps - 1:
      return None
    jax.block_until_ready(results)
    self.close()
    return self._folder

  def close(self) -> None:
    """Ends a recording that is under way, as where a run leaves."""
    if self._running:
      self._running = False
      jax.profiler.stop_trace()
