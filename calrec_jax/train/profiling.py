"""What marks a step for JAX's profiler, and the window that it records."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator

import gin
import jax

from calrec_jax.errors import at_least, check, optional

FOLDER = "profile"


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileWindow:
  """Which steps are recorded.

  Attributes:
    first_step: Number of the first recorded step, as in `metrics.jsonl`; None
      records nothing. A run's first step compiles, so take a later one.
    steps: Number of recorded steps; a trace of a few is large already.
  """

  first_step: int | None = None
  steps: int = 3

  def __post_init__(self):
    """Refuses windows without a step."""
    check(self, first_step=optional(at_least(1)), steps=at_least(1))


NOTHING = ProfileWindow()


@contextlib.contextmanager
def training_step(step: int) -> Iterator[None]:
  """One step: named in a profile, and free of implicit transfers.

  An array that moved between host and devices by accident would stall every
  step; inside, that is an error. `device_put` and `device_get` are allowed.

  Args:
    step: Number of the step, counted from 1.
  """
  with (
    jax.profiler.StepTraceAnnotation("train", step_num=step),
    jax.transfer_guard("disallow"),
  ):
    yield


class Profiler:
  """Starts and stops the recording; every process records its own devices."""

  def __init__(self, window: ProfileWindow, folder: pathlib.Path):
    """Records nothing yet.

    Args:
      window: Steps to record.
      folder: Folder of the stage; TensorBoard's profile page, or xprof, reads
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
    """Ends a recording that is under way, as where a run is preempted."""
    if self._running:
      self._running = False
      jax.profiler.stop_trace()
