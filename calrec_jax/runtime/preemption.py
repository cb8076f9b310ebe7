"""Preemption: SIGTERM, which clouds and Slurm send before they stop a machine.

Ctrl-C (SIGINT) does the same, but for its exit status.

A preempted stage finishes its step, saves, and ends with `PREEMPTED_STATUS`;
rerun, it resumes bit-exactly. Processes of one job stop after the same step,
whichever of them was signalled: JAX's preemption service agrees on it. Tested
by `tests/contract/test_preempted.py` and `tests/multiprocess`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

# "Saved; start me again", as `launch/preemption.sh` names it for launchers.
PREEMPTED_STATUS = 83
# A scheduler may signal a whole group of processes, in which a script signals
# its child again: that is one preemption.
SAME_SIGNAL_SECONDS = 2.0
# A second Ctrl-C is somebody who does not want to wait.
_SAME_INTERRUPT_SECONDS = 0.2
_INTERRUPTED = (
  "\nInterrupted: saving at the end of this step. Ctrl-C again stops at once, "
  "without saving.\n"
)


class Preempted(BaseException):
  """The run ends because it was preempted, after saving.

  Like KeyboardInterrupt not an Exception, so that no handler takes it for a
  failure.
  """


class PreemptionGuard:
  """Knows whether the run is preempted, and when it may stop; see `watch`.

  Attributes:
    interrupted: Whether it was by Ctrl-C.
  """

  def __init__(self, shared: bool):
    """Starts without a signal; `shared` if several processes must agree."""
    self._shared = shared
    self._signalled_at: float | None = None
    self._deferred = False
    self._queries = 0
    self.interrupted = False

  @property
  def word(self) -> str:
    """What happened, as a message begins."""
    return "Interrupted" if self.interrupted else "Preempted"

  def preempted(self) -> bool:
    """Whether to save and stop now; queried after every step.

    All processes of a job must query equally often. They get True at the same
    time, one or two steps after the first of them was signalled.
    """
    if not self._shared:
      return self._signalled_at is not None
    # Not the number of the step, which restarts with the next stage.
    self._queries += 1
    if not multihost_utils.reached_preemption_sync_point(self._queries):
      return False
    self._signalled_at = time.monotonic()
    # JAX's handler would swallow a second signal.
    signal.signal(signal.SIGTERM, self.on_signal)
    return True

  @contextlib.contextmanager
  def deferred(self) -> Iterator[None]:
    """Defers a signal until `preempted` is queried, or until the end.

    Raises:
      Preempted: at the end, if `preempted` was not queried after the signal.
    """
    self._deferred = True
    try:
      yield
    finally:
      self._deferred = False
    self._raise_if_signalled()

  @contextlib.contextmanager
  def interruptible(self) -> Iterator[None]:
    """Inside `deferred`: a signal raises `Preempted` at once.

    Only with one process: others would wait for it in a collective.
    """
    self._deferred = False
    try:
      self._raise_if_signalled()
      yield
    finally:
      self._deferred = True

  def on_signal(self, number: int, frame: FrameType | None) -> None:
    """Handles a signal: the first preempts, a later one kills."""
    del frame
    now = time.monotonic()
    same = SAME_SIGNAL_SECONDS
    if number == signal.SIGINT:
      same = _SAME_INTERRUPT_SECONDS
    if self._signalled_at is None:
      self._signalled_at = now
      self.interrupted = number == signal.SIGINT
      if not self._deferred:
        self._raise_if_signalled()
      if self.interrupted:
        os.write(2, _INTERRUPTED.encode())  # `print` may not be entered twice.
    elif now - self._signalled_at > same:
      signal.signal(number, signal.SIG_DFL)
      os.kill(os.getpid(), number)

  def _raise_if_signalled(self) -> None:
    if self._signalled_at is not None:
      raise Preempted(f"{self.word}: nothing had to be saved")


@contextlib.contextmanager
def watch() -> Iterator[PreemptionGuard]:
  """Handles SIGTERM and Ctrl-C as preemption; a later one kills.

  Ctrl-C is unchanged where several processes must agree.
  """
  # With several processes JAX has installed a handler of its own.
  shared = jax.distributed.is_initialized()
  guard = PreemptionGuard(shared)
  if shared or threading.current_thread() is not threading.main_thread():
    yield guard
    return
  numbers = (signal.SIGTERM, signal.SIGINT)
  before = [signal.signal(number, guard.on_signal) for number in numbers]
  try:
    yield guard
  finally:
    for number, handler in zip(numbers, before, strict=True):
      signal.signal(number, handler)
