"""Dependent runs of `calrec`, each run once.

A run is a command line and the runs it depends on. Runs whose dependencies are
finished start in parallel, each on its own cores. A finished run leaves
`done.json` in its folder and is not repeated, so a stopped study resumes when
it is started again; on Ctrl-C or SIGTERM training runs save first.
Tested by `tests/unit/benchmarks/test_benchmark_study.py`.
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
_SHOWN_LINES = 15  # Lines shown of a failed run's log.
_POLL_SECONDS = 0.2


class StudyError(RuntimeError):
  """A run failed, or was made by another command."""


class Run(NamedTuple):
  """One run of `calrec`.

  Attributes:
    name: Name, also of its folder in the study.
    arguments: Arguments of `calrec`.
    needs: Names of the runs it depends on.
  """

  name: str
  arguments: tuple[str, ...]
  needs: tuple[str, ...] = ()

  def command(self) -> str:
    """The command line, human-readable."""
    return shlex.join(["calrec", *self.arguments])


class _Started(NamedTuple):
  run: Run
  process: subprocess.Popen
  cores: tuple[int, ...]
  since: float


class Study:
  """Runs in a folder.

  Attributes:
    folder: Folder with a subfolder for every run.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    runs: Sequence[Run],
    workers: int | None = None,
    program: Sequence[str] = (sys.executable, "-m", "calrec_jax"),
  ):
    """Takes the runs, each after those it depends on.

    Args:
      folder: Folder of the study, created if missing.
      runs: All runs of the study.
      workers: Number of parallel runs, which divide the cores available to this
        process; by default one per core.
      program: Program that takes the arguments.

    Raises:
      ValueError: If a run precedes one it depends on, or there are too many
        workers.
    """
    known: set[str] = set()
    for run in runs:
      missing = [name for name in run.needs if name not in known]
      if missing or run.name in known:
        raise ValueError(
          f"The run {run.name} appears twice, or before {missing}."
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
    self._core_sets = [tuple(cores[at::workers]) for at in range(workers)]

  def done(self, name: str) -> dict[str, Any] | None:
    """The record of a finished run; None if it is not finished.

    Raises:
      StudyError: If it was made by another command.
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
    """Runs what is not finished.

    Returns:
      The record of every run by name: `command`, `commit`, `machine`,
      `finished`, `seconds` and `cpu_seconds`. Seconds are those of the process
      that finished it, without those before it was resumed.

    Raises:
      StudyError: If a run fails; the others are stopped first.
    """
    waiting = [run for run in self._runs.values() if not self.done(run.name)]
    total = len(waiting)
    print(f"{len(self._runs) - total} of {len(self._runs)} runs are done")
    free, started = list(self._core_sets), list[_Started]()
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
        # Ctrl-C must reach only the study, which then stops its runs.
        start_new_session=True,
      )
    # Before it creates threads, which would stay on all cores.
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
  its record, and leave the run running. A signal that is ignored stays ignored,
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
  """Resource usage of a process and its children; None while it runs."""
  pid, status, usage = os.wait4(process.pid, os.WNOHANG)
  if not pid:
    return None
  process.returncode = os.waitstatus_to_exitcode(status)
  return usage


def _stop(processes: Sequence[subprocess.Popen]) -> None:
  """Makes processes save and exit, and waits for them."""
  for process in processes:
    process.send_signal(signal.SIGTERM)
  for process in processes:
    process.wait()


def _commit() -> str:
  """Commit of the checkout, with a + if modified; "unknown" outside one."""
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
