"""Goodput: how a stage spent its time, over all of its runs.

A run adds rows to `time.jsonl` in the stage's folder: when it starts, after
every save, when it is preempted and when the stage is finished. Goodput is the
fraction of the time since the first start that was spent on steps: not on
starting, validating, saving, steps that were lost to a kill, or not running.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from calrec_jax.storage import atomic

FILE = "time.jsonl"
STEPS = "steps"
# Activities of a run until its first step is over, in order.
START_UP = ("token caches", "parameters", "first step")
VALIDATION, CHECKPOINTS = "validation", "checkpoints"
LOST, NOTHING = "steps lost", "not running"


class Timeline:
  """Seconds of one run by activity; there is one activity at a time."""

  def __init__(self, clock: Callable[[], float] = time.perf_counter):
    """Starts with the first activity of `START_UP`."""
    self._clock = clock
    self._activity, self._since = START_UP[0], clock()
    self._seconds: dict[str, float] = collections.defaultdict(float)

  def now(self, activity: str) -> None:
    """Switches to an activity."""
    at = self._clock()
    self._seconds[self._activity] += at - self._since
    self._activity, self._since = activity, at

  @contextlib.contextmanager
  def during(self, activity: str) -> Iterator[None]:
    """Interrupts the current activity by another one."""
    before = self._activity
    self.now(activity)
    try:
      yield
    finally:
      self.now(before)

  def seconds(self) -> dict[str, float]:
    """Seconds until now, by activity."""
    self.now(self._activity)
    return dict(self._seconds)

  def start_up(self) -> str:
    """Human-readable time until the end of the first step."""
    seconds = self.seconds()
    parts = {name: seconds[name] for name in START_UP if name in seconds}
    return f"{sum(parts.values()):.1f} s: " + ", ".join(
      f"{name} {value:.1f}" for name, value in parts.items()
    )


def read_rows(folder: pathlib.Path) -> list[dict[str, Any]]:
  """The rows of a stage's folder, without lines that a kill truncated."""
  path = folder / FILE
  rows = []
  for line in path.read_text("utf-8").splitlines() if path.exists() else ():
    with contextlib.suppress(json.JSONDecodeError):
      rows.append(json.loads(line))
  return rows


def add_row(
  folder: pathlib.Path, event: str, step: int, timeline: Timeline
) -> None:
  """Adds a row.

  Args:
    folder: Folder of the stage.
    event: One of "start", "saved", "left" (preempted) and "finished".
    step: Number of completed steps.
    timeline: Timeline of this run.
  """
  row = {
    "time": time.time(),
    "event": event,
    "step": step,
    "seconds": timeline.seconds(),
  }
  lines = (json.dumps(row) + "\n" for row in [*read_rows(folder), row])
  atomic.write_text(folder / FILE, "".join(lines))


def activity_fractions(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Fractions of the time since the first start, by activity; they sum to 1.

  Args:
    rows: Rows of `time.jsonl`.

  Returns:
    Fractions; that of `STEPS` is the goodput.
  """
  runs = _runs(rows)
  if not runs:
    return {}
  seconds: dict[str, float] = collections.defaultdict(float)
  for run in runs:
    for activity, value in run[-1]["seconds"].items():
      seconds[activity] += value
  for run, after in itertools.pairwise(runs):
    # The next run resumed from a saved step of this one, or from scratch.
    saved = [row for row in run if row["step"] <= after[0]["step"]]
    made = run[-1]["seconds"].get(STEPS, 0.0)
    lost = made - max(
      (r["seconds"].get(STEPS, 0.0) for r in saved), default=0.0
    )
    seconds[STEPS] -= lost
    seconds[LOST] += lost
    seconds[NOTHING] += max(0.0, _began(after) - run[-1]["time"])
  total = max(rows[-1]["time"] - _began(runs[0]), sum(seconds.values()))
  return {name: value / total for name, value in seconds.items() if value}


def summary(folder: pathlib.Path) -> str:
  """One human-readable line, from the rows of a stage's folder."""
  rows = read_rows(folder)
  fractions = collections.defaultdict(float, activity_fractions(rows))
  if not fractions:
    return "no time was recorded"
  runs = _runs(rows)
  hours, rest = divmod(round(rows[-1]["time"] - _began(runs[0])), 3600)
  took = f"{hours} h {rest // 60} min" if hours else f"{rest} s"
  parts = {"start-up": sum(fractions[name] for name in START_UP)}
  parts |= {k: fractions[k] for k in (VALIDATION, CHECKPOINTS, LOST, NOTHING)}
  shown = ", ".join(
    f"{name} {part:.1%}" for name, part in parts.items() if part
  )
  starts = f"{len(runs)} starts" if len(runs) > 1 else "one start"
  return f"goodput {fractions[STEPS]:.1%} of {took} and {starts}" + (
    f" ({shown})" if shown else ""
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
  """Time when a run began, before its first row."""
  return run[0]["time"] - sum(run[0]["seconds"].values())
