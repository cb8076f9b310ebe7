"""Dependent runs: order, resuming, failures, cores, signals."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import study
from benchmarks.study import Run, Study, StudyError

PYTHON = (sys.executable, "-c")


def _appends(path, word):
  """A program that adds a line to a file."""
  return f"open({str(path)!r}, 'a').write({word!r} + '\\n')"


def test_runs_go_in_order_and_once(tmp_path):
  noted = tmp_path / "noted"
  runs = [
    Run("first", (_appends(noted, "first"),)),
    Run("second", (_appends(noted, "second"),), ("first",)),
    Run("third", (_appends(noted, "third"),), ("second",)),
  ]
  done = Study(tmp_path / "study", runs, workers=1, program=PYTHON).work()
  assert noted.read_text().split() == ["first", "second", "third"]
  assert list(done) == ["first", "second", "third"]
  assert done["first"]["command"] == runs[0].command()
  assert done["first"]["cpu_seconds"] > 0
  again = Study(tmp_path / "study", runs, workers=1, program=PYTHON).work()
  assert again == done
  assert len(noted.read_text().split()) == 3


def test_a_run_that_fails_shows_its_log_and_is_tried_again(tmp_path):
  needed = tmp_path / "needed"
  runs = [
    Run("well", ("print('well')",)),
    Run("reads", (f"print('looks'); open({str(needed)!r})",)),
    Run("after", ("print('after')",), ("reads",)),
  ]
  with pytest.raises(StudyError, match=r"(?s)reads ended.*looks.*needed"):
    Study(tmp_path / "study", runs, workers=1, program=PYTHON).work()
  assert not (tmp_path / "study" / "after").exists()
  needed.touch()
  done = Study(tmp_path / "study", runs, workers=1, program=PYTHON).work()
  assert set(done) == {"well", "reads", "after"}


def test_another_command_is_refused(tmp_path):
  Study(tmp_path, [Run("one", ("1",))], program=PYTHON).work()
  with pytest.raises(StudyError, match=r"calrec 1\nand not by\n  calrec 2"):
    Study(tmp_path, [Run("one", ("2",))], program=PYTHON).work()


def test_each_worker_has_one_core(tmp_path):
  shown = "import os, time; time.sleep(0.5); print(os.sched_getaffinity(0))"
  runs = [Run(name, (shown,)) for name in ("a", "b")]
  Study(tmp_path, runs, program=PYTHON).work()
  cores = {(tmp_path / name / "log.txt").read_text() for name in ("a", "b")}
  known = {f"{{{core}}}\n" for core in os.sched_getaffinity(0)}
  assert cores <= known
  assert len(cores) == min(2, len(known))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_stops_it_lets_its_runs_save(tmp_path, number):
  saves = (
    "import signal, sys, time, pathlib\n"
    "def save(*_):\n"
    f"  pathlib.Path({str(tmp_path / 'saved')!r}).touch()\n"
    "  sys.exit(75)\n"
    "signal.signal(signal.SIGTERM, save)\n"
    f"pathlib.Path({str(tmp_path / 'up')!r}).touch()\n"
    "time.sleep(60)"
  )
  program = (
    "import pathlib, signal, sys\n"
    # A background job of a shell, and so its tests, ignores it.
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from benchmarks.study import Run, Study\n"
    f"Study(pathlib.Path({str(tmp_path / 'study')!r}), "
    f"[Run('long', ({saves!r},))], program={PYTHON!r}).work()"
  )
  with subprocess.Popen([*PYTHON, program], cwd=study.ROOT) as process:
    try:
      deadline = time.monotonic() + 60
      while not (tmp_path / "up").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
      process.send_signal(number)
      assert process.wait(60) == 128 + number
    finally:
      process.kill()
  assert (tmp_path / "saved").exists()
  assert not (tmp_path / "study" / "long" / "done.json").exists()


@pytest.mark.parametrize(
  ("runs", "workers"),
  [
    ([Run("a", (), ("b",)), Run("b", ())], 1),
    ([Run("a", ()), Run("a", ())], 1),
    ([Run("a", ())], 0),
    ([Run("a", ())], 10_000),
  ],
)
def test_what_cannot_be_done_is_refused(tmp_path, runs, workers):
  with pytest.raises(ValueError, match=r"appears twice|cores"):
    Study(tmp_path, runs, workers)


def test_the_table_of_runs():
  record = {
    "command": "calrec train",
    "commit": "abc+",
    "machine": "CPU",
    "cpu_seconds": 1234.5,
  }
  text = study.describe({"one": json.loads(json.dumps(record))})
  assert text.splitlines()[-1] == (
    "| one | 1,234 | abc+ | CPU | `calrec train` |"
  )


def test_runs_divide_the_cores(tmp_path):
  cores = os.sched_getaffinity(0)
  show = (
    "import os, time; time.sleep(1); print(sorted(os.sched_getaffinity(0)))"
  )
  for workers in (1, len(cores)):
    folder = tmp_path / str(workers)
    runs = [Run(f"run{at}", (show,)) for at in range(workers)]
    Study(folder, runs, workers=workers, program=PYTHON).work()
    core_sets = [
      json.loads((folder / run.name / "log.txt").read_text()) for run in runs
    ]
    # Side by side, none on the core of another.
    assert sorted(
      core for core_set in core_sets for core in core_set
    ) == sorted(cores)
