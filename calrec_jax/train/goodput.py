"""Where a stage's time went, over all the runs that it took.

A run adds rows to `time.jsonl` in the stage's folder: when it starts, whenever
it has saved, when it is preempted and when the stage is finished. Goodput is
the fraction of the time since the first start in which steps were made that
count: not starting, validating, saving, nor steps that a kill has lost, nor the
time when nothing ran.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

FILE = "time.jsonl"
STEPS = "steps"
# What a run does before its first step is over, in order.
START_UP = ("token caches", "parameters", "first step")
VALIDATION, CHECKPOINTS = "validation", "checkpoints"
LOST, NOTHING = "steps lost", "not running"


class Timeline:
  """Seconds of one run by what it was doing; it does one thing at a time."""

  def __init__(self, clock: Callable[[], float] = time.perf_counter):
    """Starts with what comes first."""
    self._clock = clock
    self._doing, self._since = START_UP[0], clock()
    self._seconds: dict[str, float] = {}

  def now(self, activity: str) -> None:
    """From here on it does something else."""
    at = self._clock()
    so_far = self._seconds.get(self._doing, 0.0)
    self._seconds[self._doing] = so_far + at - self._since
    self._doing, self._since = activity, at

  @contextlib.contextmanager
  def during(self, activity: str) -> Iterator[None]:
    """Something that interrupts what it is doing."""
    before = self._doing
    self.now(activity)
    try:
      yield
    finally:
      self.now(before)

  def seconds(self) -> dict[str, float]:
    """Until now, by activity."""
    self.now(self._doing)
    return dict(self._seconds)

  def start_up(self) -> str:
    """Human-readable: how long it took until the first step was made."""
    seconds = self.seconds()
    parts = [(name, seconds[name]) for name in START_UP if name in seconds]
    total = sum(value for _, value in parts)
    return f"{total:.1f} s: " + ", ".join(
      f"{name} {value:.1f}" for name, value in parts
    )


def read_rows(folder: pathlib.Path) -> list[dict[str, Any]]:
  """The rows of a stage's folder but for those that a kill has cut."""
  path = folder / FILE
  rows = []
  for line in path.read_text("utf-8").splitlines() if path.exists() else ():
    with contextlib.suppress(json.JSONDecodeError):
      rows.append(json.loads(line))
  return rows


def add_row(
  folder: pathlib.Path, event: str, step: int, timeline: Timeline
) -> None:
  """Adds a row, in one write: a killed process leaves whole lines.

  Args:
    folder: Folder of the stage.
    event: One of "start", "saved", "left" (preempted) and "finished".
    step: Last step that was made.
    timeline: Timeline of this run.
  """
  row = {
    "time": time.time(),
    "event": event,
    "step": step,
    "seconds": timeline.seconds(),
  }
  path = folder / FILE
  # A line that a kill has cut must not take the next one with it.
  cut = path.exists() and not path.read_bytes().endswith(b"\n")
  with path.open("a", encoding="utf-8") as file:
    file.write("\n" * cut + json.dumps(row) + "\n")


def shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Where the time since the first start went, as fractions that add up to 1.

  Args:
    rows: Rows of `time.jsonl`.

  Returns:
    By activity; `STEPS` is the goodput.
  """
  runs = _runs(rows)
  if not runs:
    return {}
  total = rows[-1]["time"] - _began(runs[0])
  seconds: dict[str, float] = {}
  for run, after in zip(runs, [*runs[1:], None], strict=True):
    for activity, value in run[-1]["seconds"].items():
      seconds[activity] = seconds.get(activity, 0.0) + value
    if after is None:
      continue
    # The next run resumed from a step that this one had saved, or anew.
    saved = [row for row in run if row["step"] <= after[0]["step"]]
    made = run[-1]["seconds"].get(STEPS, 0.0)
    lost = made - max(
      (r["seconds"].get(STEPS, 0.0) for r in saved), default=0.0
    )
    seconds[STEPS] = seconds.get(STEPS, 0.0) - lost
    seconds[LOST] = seconds.get(LOST, 0.0) + lost
    gap = max(0.0, _began(after) - run[-1]["time"])
    seconds[NOTHING] = seconds.get(NOTHING, 0.0) + gap
  total = max(total, sum(seconds.values()))
  return {name: value / total for name, value in seconds.items() if value}


def summary(folder: pathlib.Path) -> str:
  """One human-readable line, from the rows of a stage's folder."""
  rows = read_rows(folder)
  of = shares(rows)
  runs = _runs(rows)
  if not of:
    return "no time was recorded"
  hours, rest = divmod(round(rows[-1]["time"] - _began(runs[0])), 3600)
  took = f"{hours} h {rest // 60} min" if hours else f"{rest} s"
  others = {
    "start-up": sum(of.get(name, 0.0) for name in START_UP),
    **{
      name: of.get(name, 0.0)
      for name in (VALIDATION, CHECKPOINTS, LOST, NOTHING)
    },
  }
  parts = [f"{name} {share:.1%}" for name, share in others.items() if share]
  starts = f"{len(runs)} starts" if len(runs) > 1 else "one start"
  return f"goodput {of.get(STEPS, 0.0):.1%} of {took} and {starts}" + (
    f" ({', '.join(parts)})" if parts else ""
  )


def _runs(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
  runs: list[list[Mapping[str, Any]]] = []
  for row in rows:
    if row["event"] == "start":
      runs.append([])
    if runs:
      runs[-1].append(row)
  return runs


def _began(run: Sequence[Mapping[str, Any]]) -> float:
  """When a run began, which is before its first row."""
  return run[0]["time"] - sum(run[0]["seconds"].values())
