"""When a preemption takes effect: at once, when queried, or at the end."""

import os
import signal

import pytest

from calrec_jax.runtime import preemption
from launch.launcher.preemption import preempted_status


def signalled(guard, *contexts):
  """What happened where a signal comes within nested contexts."""
  happened = []

  def enter(rest):
    if not rest:
      os.kill(os.getpid(), signal.SIGTERM)
      happened.append(guard.preempted())
      return
    with rest[0]():
      enter(rest[1:])
      happened.append("continued")

  try:
    enter(contexts)
    happened.append("finished")
  except preemption.Preempted:
    happened.append("stopped")
  return happened


def test_launchers_know_the_exit_status():
  assert preempted_status() == preemption.PREEMPTED_STATUS


def test_outside_a_stage_it_stops_at_once():
  with preemption.watch() as guard:
    assert signalled(guard) == ["stopped"]


def test_in_a_stage_it_waits_for_a_query_or_the_end():
  with preemption.watch() as guard:
    assert signalled(guard, guard.deferred) == [True, "continued", "stopped"]


def test_what_is_long_is_cut():
  with preemption.watch() as guard:
    assert signalled(guard, guard.deferred, guard.interruptible) == ["stopped"]


def test_nothing_long_begins_after_a_signal():
  with preemption.watch() as guard:
    guard._deferred = True
    guard.on_signal(signal.SIGTERM, None)
    with pytest.raises(preemption.Preempted):
      guard.interruptible().__enter__()


def test_a_later_one_kills_and_in_the_end_all_is_as_before(monkeypatch):
  before = signal.getsignal(signal.SIGTERM)
  now, killed = [100.0], []
  monkeypatch.setattr(preemption.time, "monotonic", lambda: now[0])
  with preemption.watch() as guard:
    assert signal.getsignal(signal.SIGTERM) == guard.on_signal
    assert signalled(guard, guard.deferred)[-1] == "stopped"
    monkeypatch.setattr(
      preemption.os, "kill", lambda _, number: killed.append(number)
    )
    now[0] += preemption.SAME_SIGNAL_SECONDS / 2
    guard.on_signal(signal.SIGTERM, None)  # The same preemption by another way.
    assert not killed
    now[0] += preemption.SAME_SIGNAL_SECONDS
    guard.on_signal(signal.SIGTERM, None)
    assert killed == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_ctrl_c_stops_at_once(monkeypatch, capfd):
  before = signal.getsignal(signal.SIGINT)
  now, killed = [100.0], []
  monkeypatch.setattr(preemption.time, "monotonic", lambda: now[0])
  with preemption.watch() as guard:
    guard._deferred = True
    os.kill(os.getpid(), signal.SIGINT)
    assert guard.preempted()
    assert guard.interrupted
    assert guard.word == "Interrupted"
    assert "Ctrl-C again stops at once" in capfd.readouterr().err
    monkeypatch.setattr(
      preemption.os, "kill", lambda _, number: killed.append(number)
    )
    now[0] += 0.5
    guard.on_signal(signal.SIGINT, None)
    assert killed == [signal.SIGINT]
  assert signal.getsignal(signal.SIGINT) == before
