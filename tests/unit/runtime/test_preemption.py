"""When a notice is taken: at once, when it is asked for, or at the end."""

import os
import signal

import pytest

from calrec_jax.runtime import preemption
from launch.launcher.preemption import preempted_status


def told(notice, *places):
  """What happened to somebody who is told to leave in nested places."""
  happened = []

  def enter(rest):
    if not rest:
      os.kill(os.getpid(), signal.SIGTERM)
      happened.append(notice.leave())
      return
    with rest[0]():
      enter(rest[1:])
      happened.append("went on")

  try:
    enter(places)
    happened.append("finished")
  except preemption.Preempted:
    happened.append("left")
  return happened


def test_launchers_know_the_exit_status():
  assert preempted_status() == preemption.PREEMPTED_STATUS


def test_outside_a_stage_a_notice_is_taken_at_once():
  with preemption.watch() as notice:
    assert told(notice) == ["left"]


def test_in_a_stage_it_waits_until_it_is_asked_for_or_the_end():
  with preemption.watch() as notice:
    assert told(notice, notice.held) == [True, "went on", "left"]


def test_what_is_long_is_cut():
  with preemption.watch() as notice:
    assert told(notice, notice.held, notice.interruptible) == ["left"]


def test_nothing_long_begins_after_a_notice():
  with preemption.watch() as notice:
    notice._held = True
    notice.take(signal.SIGTERM, None)
    with pytest.raises(preemption.Preempted):
      notice.interruptible().__enter__()


def test_a_later_one_kills_and_in_the_end_all_is_as_before(monkeypatch):
  before = signal.getsignal(signal.SIGTERM)
  now, killed = [100.0], []
  monkeypatch.setattr(preemption.time, "monotonic", lambda: now[0])
  with preemption.watch() as notice:
    assert signal.getsignal(signal.SIGTERM) == notice.take
    assert told(notice, notice.held)[-1] == "left"
    monkeypatch.setattr(
      preemption.os, "kill", lambda _, number: killed.append(number)
    )
    now[0] += preemption.SAME_NOTICE_SECONDS / 2
    notice.take(signal.SIGTERM, None)  # The same notice on another way.
    assert not killed
    now[0] += preemption.SAME_NOTICE_SECONDS
    notice.take(signal.SIGTERM, None)
    assert killed == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  assert signal.getsignal(signal.SIGTERM) == before
