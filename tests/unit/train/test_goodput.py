"""Where a stage's time went, with a clock that is set by hand."""

import pytest

from calrec_jax.train import goodput


class Clock:
  """Seconds that pass when the test says so."""

  at = 100.0

  def __call__(self):
    return self.at


def _row(event, at, step, **seconds):
  names = {"start": "token caches", "compile": "first step"}
  return {
    "time": float(at),
    "event": event,
    "step": step,
    "seconds": {names.get(k, k): float(v) for k, v in seconds.items()},
  }


def test_a_timeline_counts_each_second_once():
  clock = Clock()
  timeline = goodput.Timeline(clock)
  clock.at += 3
  timeline.now("parameters")
  clock.at += 2
  timeline.now("first step")
  clock.at += 10
  timeline.now(goodput.STEPS)
  clock.at += 20
  with timeline.during(goodput.VALIDATION):
    clock.at += 5
  clock.at += 1
  assert timeline.seconds() == {
    "token caches": 3,
    "parameters": 2,
    "first step": 10,
    "steps": 21,
    "validation": 5,
  }
  assert timeline.start_up() == (
    "15.0 s: token caches 3.0, parameters 2.0, first step 10.0"
  )


def test_one_run():
  rows = [
    _row("start", 1010, 0, start=10),
    _row("saved", 1100, 50, start=10, compile=10, steps=80),
    _row("finished", 1200, 100, start=10, compile=10, steps=170, validation=10),
  ]
  assert goodput.activity_fractions(rows) == pytest.approx(
    {
      "token caches": 0.05,
      "first step": 0.05,
      "steps": 0.85,
      "validation": 0.05,
    }
  )


def test_a_killed_run_loses_its_steps_and_the_time_until_the_next():
  rows = [
    _row("start", 1010, 0, start=10),
    _row("saved", 1060, 50, start=10, steps=50),
    _row("saved", 1080, 70, start=10, steps=70),
    # Killed; the checkpoint of step 70 was not complete. Begun anew at 1090.
    _row("start", 1100, 50, start=10),
    _row("finished", 1150, 100, start=10, steps=50),
  ]
  assert goodput.activity_fractions(rows) == pytest.approx(
    {
      "token caches": 20 / 150,
      "steps": 100 / 150,
      goodput.LOST: 20 / 150,
      goodput.NOTHING: 10 / 150,
    }
  )


def test_a_run_from_the_start_keeps_nothing():
  rows = [
    _row("start", 1000, 0),
    _row("saved", 1050, 50, steps=50),
    _row("start", 1050, 0),
    _row("finished", 1100, 50, steps=50),
  ]
  assert goodput.activity_fractions(rows) == pytest.approx(
    {"steps": 0.5, goodput.LOST: 0.5}
  )


def test_rows_of_a_folder_are_summarised_in_a_line(tmp_path):
  clock = Clock()
  timeline = goodput.Timeline(clock)
  assert goodput.summary(tmp_path) == "no time was recorded"
  goodput.add_row(tmp_path, "start", 0, timeline)
  timeline.now(goodput.STEPS)
  clock.at += 8
  with (tmp_path / goodput.FILE).open("a") as file:
    file.write('{"time": 1')  # Killed while it wrote.
  goodput.add_row(tmp_path, "finished", 8, timeline)
  events = [row["event"] for row in goodput.read_rows(tmp_path)]
  assert events == ["start", "finished"]
  assert "one start" in goodput.summary(tmp_path)
