"""JAX's profiler: marking of steps, and the window of recorded steps."""

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
  """Steps that are recorded.

  Attributes:
    first_step: Number of the first recorded step, as in `metrics.jsonl`; None
      records nothing. A run's first step compiles, so choose a later one.
    steps: Number of recorded steps; traces of a few steps are large already.
  """

  first_step: int | None = None
  steps: int = 3

  def __post_init__(self):
    """Checks the ranges."""
    check(self, first_step=optional(at_least(1)), steps=at_least(1))


NOTHING = ProfileWindow()


@contextlib.contextmanager
def training_step(step: int) -> Iterator[None]:
  """A step, counted from 1: named in a profile, without implicit transfers.

  Accidental transfers between host and devices would stall every step; inside,
  they raise an error. `device_put` and `device_get` are allowed.
  """
  with (
    jax.profiler.StepTraceAnnotation("train", step_num=step),
    jax.transfer_guard("disallow"),
  ):
    yield


class Profiler:
  """Starts and stops the recording; every process records its own devices.

  TensorBoard's profile page and xprof read `profile` in the stage's folder.
  """

  def __init__(self, window: ProfileWindow, folder: pathlib.Path):
    self._window, self._folder = window, folder / FOLDER
    self._running = False

  def before(self, step: int) -> None:
    """Starts the recording if it begins with this step."""
    if step == self._window.first_step:
      jax.profiler.start_trace(str(self._folder))
      self._running = True

  def after(self, step: int, results: object) -> pathlib.Path | None:
    """Ends the recording after its last step, once its results are computed.

    Returns:
      The folder, if the recording has just ended.
    """
    last = (self._window.first_step or 0) + self._window.steps - 1
    if not self._running or step < last:
      return None
    jax.block_until_ready(results)
    self.close()
    return self._folder

  def close(self) -> None:
    """Ends a recording in progress, for instance if a run is preempted."""
    if self._running:
      self._running = False
      jax.profiler.stop_trace()
