"""Many runs of `calrec` that need one another, each done once.

A run is a command line and the runs it needs. Runs whose needs are done start
side by side, each on cores of its own. A finished run leaves `done.json` in
its folder and is not started again, so a study that was stopped goes on when
it is asked for again; at Ctrl-C or SIGTERM what trains is told to save first.
Tested by `tests/unit/test_benchmark_study.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import processor
from calrec_jax.evaluate.results import write_json

ROOT = pathlib.Path(__file__).parents[1]
_DONE, _LOG = "done.json", "log.txt"
_SHOWN_LINES = 15  # Of the log of a run that failed.
_POLL_SECONDS = 0.2


class StudyError(RuntimeError):
  """A run failed, or was done with another command."""


class Run(NamedTuple):
  """One run of `calrec`.

  Attributes:
    name: of its folder in the study.
    arguments: behind `calrec`.
    needs: names of the runs that have to be done before.
  """

  name: str
  arguments: tuple[str, ...]
  needs: tuple[str, ...] = ()

  def command(self) -> str:
    """The line that makes it, for people."""
    return shlex.join(["calrec", *self.arguments])


class _Started(NamedTuple):
  run: Run
  process: subprocess.Popen
  cores: tuple[int, ...]
  since: float


class Study:
  """Runs in a folder.

  Attributes:
    folder: holds a folder for every run.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    runs: Sequence[Run],
    workers: int | None = None,
    program: Sequence[str] = (sys.executable, "-m", "calrec_jax"),
  ):
    """Takes the runs, each of which stands behind those it needs.

    Args:
      folder: made when needed.
      runs: all of the study.
      workers: how many at once, which share the cores that this process may
        use; by default one for every core.
      program: what the arguments go to.

    Raises:
      ValueError: if a run needs one that does not stand before it, or for too
        many workers.
    """
    known: set[str] = set()
    for run in runs:
      missing = [name for name in run.needs if name not in known]
      if missing or run.name in known:
        raise ValueError(
          f"The run {run.name} stands twice, or before {missing}."
        )
      known.add(run.name)
    self.folder = folder
    self._runs = {run.name: run for run in runs}
    self._program = tuple(program)
    cores = sorted(os.sched_getaffinity(0))
    workers = len(cores) if workers is None else workers
    if not 1 <= workers <= len(cores):
      raise ValueError(
        f"{workers} workers for {len(cores)} cores: use 1 to {len(cores)}."
      )
    self._shares = [tuple(cores[at::workers]) for at in range(workers)]

  def done(self, name: str) -> dict[str, Any] | None:
    """What a finished run left; None where it is not finished.

    Raises:
      StudyError: if it was done with another command.
    """
    path = self.folder / name / _DONE
    if not path.exists():
      return None
    record = json.loads(path.read_text("utf-8"))
    wanted = self._runs[name].command()
    if record["command"] != wanted:
      raise StudyError(
        f"{path.parent} was made by\n  {record['command']}\nand not by\n  "
        f"{wanted}\nUse another --output, or remove that folder."
      )
    return record

  def work(self) -> dict[str, dict[str, Any]]:
    """Does what is not done.

    Returns:
      What every run left: `command`, `commit`, `machine`, `finished`, `seconds`
      and `cpu_seconds`, by its name. Seconds are those of the process that
      finished it: one that went on counts its own alone.

    Raises:
      StudyError: if a run fails; what is under way is stopped first.
    """
    waiting = [run for run in self._runs.values() if not self.done(run.name)]
    total = len(waiting)
    print(f"{len(self._runs) - total} of {len(self._runs)} runs are done")
    free, started = list(self._shares), list[_Started]()
    try:
      with _stop_requests() as requests:
        while waiting or started:
          if requests:
            sys.exit(128 + requests[0])
          ready = [run for run in waiting if all(map(self.done, run.needs))]
          for run in ready[: len(free)]:
            waiting.remove(run)
            started.append(self._start(run, free.pop()))
          over = [
            (at, usage) for at in started if (usage := _ended(at.process))
          ]
          for at, usage in over:
            started.remove(at)
            free.append(at.cores)
            self._finish(at, usage)
          if not over:
            time.sleep(_POLL_SECONDS)
    finally:
      _stop([at.process for at in started])
    return {name: self.done(name) or {} for name in self._runs}

  def _start(self, run: Run, cores: tuple[int, ...]) -> _Started:
    folder = self.folder / run.name
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{_clock()} {run.name} starts; log: {folder / _LOG}", flush=True)
    with (folder / _LOG).open("a", encoding="utf-8") as log:
      process = subprocess.Popen(
        [*self._program, *run.arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(len(cores))},
        # A Ctrl-C is for the study, which tells its runs to save.
        start_new_session=True,
      )
    # Before it has made threads, which would stay on all cores.
    os.sched_setaffinity(process.pid, cores)
    return _Started(run, process, cores, time.monotonic())

  def _finish(self, at: _Started, usage: Any) -> None:
    folder = self.folder / at.run.name
    if at.process.returncode:
      lines = (folder / _LOG).read_text("utf-8", "replace").splitlines()
      raise StudyError(
        f"{at.run.name} ended with status {at.process.returncode}:\n  "
        f"{at.run.command()}\n" + "\n".join(lines[-_SHOWN_LINES:])
      )
    seconds = time.monotonic() - at.since
    record = {
      "command": at.run.command(),
      "commit": _commit(),
      "machine": processor.name(),
      "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
      "seconds": round(seconds, 2),
      "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
    }
    write_json(folder / _DONE, record)
    print(f"{_clock()} {at.run.name}: {seconds:,.0f} s", flush=True)


def describe(study: Mapping[str, Mapping[str, Any]]) -> str:
  """Every run's time, machine, commit and command, as a Markdown table."""
  lines = [
    "| run | CPU s | commit | machine | command |",
    "|---|---|---|---|---|",
  ]
  lines += [
    f"| {name} | {record['cpu_seconds']:,.0f} | {record['commit']} | "
    f"{record['machine']} | `{record['command']}` |"
    for name, record in study.items()
  ]
  return "\n".join(lines)


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
  """Collects the numbers of the signals that request a stop.

  An exception raised by a handler could fall between the start of a run and
  its record, and leave the run behind. A signal that is ignored stays ignored,
  as SIGINT is for a background job of a shell.
  """
  requests: list[int] = []
  if threading.current_thread() is not threading.main_thread():
    yield requests  # Signals belong to the main one.
    return
  before = {
    number: handler
    for number in (signal.SIGINT, signal.SIGTERM)
    if (handler := signal.getsignal(number)) != signal.SIG_IGN
  }
  for number in before:
    signal.signal(number, lambda number, _: requests.append(number))
  try:
    yield requests
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _ended(process: subprocess.Popen) -> Any:
  """The resources that a process took with its children; None if it runs."""
  pid, status, usage = os.wait4(process.pid, os.WNOHANG)
  if not pid:
    return None
  process.returncode = os.waitstatus_to_exitcode(status)
  return usage


def _stop(processes: Sequence[subprocess.Popen]) -> None:
  """Tells them to save and leave, and waits until they have."""
  for process in processes:
    process.send_signal(signal.SIGTERM)
  for process in processes:
    process.wait()


def _commit() -> str:
  """Of the checkout, with a + where files differ; "unknown" outside one."""
  try:
    found = subprocess.run(
      ["git", "describe", "--always", "--dirty=+"],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=True,
    )
  except (OSError, subprocess.CalledProcessError):
    return "unknown"
  return found.stdout.strip()


def _clock() -> str:
  return time.strftime("%H:%M:%S")
