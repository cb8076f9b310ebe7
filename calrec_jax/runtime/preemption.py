"""Leaving when told to: SIGTERM, which clouds and Slurm send before the end.

A stage that is told to leave finishes its step, saves, and ends with
`PREEMPTED_STATUS`; run again, it goes on to the bits of a run that was never
stopped. Processes of one job leave after the same step, whichever of them was
told: JAX's preemption service agrees on it. Tested by
`tests/contract/test_told_to_leave.py` and `tests/multiprocess`.
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
# A scheduler tells a whole group of processes, and the script among them tells
# its child again: that is one notice.
SAME_NOTICE_SECONDS = 2.0


class Preempted(BaseException):
  """The run leaves because it was told to; what was to be saved is saved.

  Like KeyboardInterrupt no Exception, so that nothing on the way takes it for
  a failure.
  """


class Notice:
  """Whether the run was told to leave, and when it may; see `watch`."""

  def __init__(self, shared: bool):
    """Nothing was told yet.

    Args:
      shared: whether several processes have to leave after the same step.
    """
    self._shared = shared
    self._told_at: float | None = None
    self._held = False
    self._asked = 0

  def leave(self) -> bool:
    """Whether to save and leave now; asked after every step.

    All processes of a job must ask equally often. They are told yes at the
    same time, one or two steps after the first of them was told to leave.
    """
    if not self._shared:
      return self._told_at is not None
    # Not the number of the step: that starts again with the next stage.
    self._asked += 1
    if not multihost_utils.reached_preemption_sync_point(self._asked):
      return False
    self._told_at = time.monotonic()
    signal.signal(signal.SIGTERM, self.take)  # JAX's would swallow a second.
    return True

  @contextlib.contextmanager
  def held(self) -> Iterator[None]:
    """Inside, a notice waits for `leave`, or else for the end.

    Raises:
      Preempted: at the end, if nobody asked after the notice.
    """
    self._held = True
    try:
      yield
    finally:
      self._held = False
    self._raise_if_told()

  @contextlib.contextmanager
  def interruptible(self) -> Iterator[None]:
    """Inside `held`: something long that may be cut anywhere.

    Only where the process is alone: others would wait for it in a collective.

    Raises:
      Preempted: as soon as there is a notice.
    """
    self._held = False
    try:
      self._raise_if_told()
      yield
    finally:
      self._held = True

  def take(self, number: int, frame: FrameType | None) -> None:
    """Handles a signal: the first is the notice, a later one kills."""
    del frame
    now = time.monotonic()
    if self._told_at is None:
      self._told_at = now
      if not self._held:
        self._raise_if_told()
    elif now - self._told_at > SAME_NOTICE_SECONDS:
      signal.signal(number, signal.SIG_DFL)
      os.kill(os.getpid(), number)

  def _raise_if_told(self) -> None:
    if self._told_at is not None:
      raise Preempted("told to leave; nothing was there to be saved.")


@contextlib.contextmanager
def watch() -> Iterator[Notice]:
  """Takes SIGTERM as a notice; a later one kills, and SIGINT as ever."""
  # With several processes JAX has installed a handler of its own.
  shared = jax.distributed.is_initialized()
  notice = Notice(shared)
  if shared or threading.current_thread() is not threading.main_thread():
    yield notice
    return
  before = signal.signal(signal.SIGTERM, notice.take)
  try:
    yield notice
  finally:
    signal.signal(signal.SIGTERM, before)
