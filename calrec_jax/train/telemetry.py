"""Reports of a running stage: progress bar, `metrics.jsonl`, TensorBoard.

A stage that was killed repeats the steps after its last checkpoint, so opening
the writers drops the rows after the step from which it resumes.
"""

from __future__ import annotations

import json
import pathlib
import re
import socket
import time
from collections.abc import Mapping
from typing import Any

import jax
import tqdm

from calrec_jax.errors import InputError
from calrec_jax.storage import atomic

METRICS_FILE = "metrics.jsonl"
_LOSS_PART = re.compile(r"loss_(\w+)_nats")


class StageLog:
  """Everything that a stage reports: progress bar, rows and TensorBoard events.

  Only the first process of a job reports.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    name: str,
    step: int,
    steps: int | None,
    complete: bool = True,
    validated: bool = True,
  ):
    """Opens the writers after `step` of `steps`.

    Args:
      folder: Folder of the stage.
      name: Name of the stage.
      step: Number of completed steps.
      steps: Number of steps of the whole stage; None if a clock ends it.
      complete: Whether the row of training at `step` itself was written.
      validated: Whether the row of its validation was, if there is one.
    """
    self._reports = jax.process_index() == 0
    self._writers = []
    if self._reports:
      self._writers = [
        MetricsLog(folder / METRICS_FILE, step, complete, validated),
        TensorBoardLog(folder / "tensorboard", step if complete else step - 1),
      ]
    self._bar = tqdm.tqdm(
      total=steps,
      initial=step,
      desc=name,
      unit="step",
      dynamic_ncols=True,
      mininterval=0.5,
      disable=not self._reports,
    )

  def advance(self) -> None:
    """Advances the bar by a step that was dispatched to the devices."""
    self._bar.update(1)

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Adds a row; the bar shows training, a line above it validation."""
    for writer in self._writers:
      writer.write(step, split, values)
    if split == "train":
      self._bar.set_postfix_str(_short(values), refresh=False)
    else:
      shown = ", ".join(f"{key} {value:.4f}" for key, value in values.items())
      self.say(f"step {step}, {split}: {shown}")

  def say(self, text: str) -> None:
    """Prints a line above the bar."""
    if self._reports:
      self._bar.write(text)

  def close(self) -> None:
    """Closes the writers."""
    self._bar.close()
    for writer in self._writers:
      writer.close()


def _short(values: Mapping[str, float]) -> str:
  """Losses, tokens/s, examples/s and FLOP utilisation of a row."""
  parts = [f"loss {values['loss']:.3f}"]
  for name, value in values.items():
    if match := _LOSS_PART.fullmatch(name):
      parts.append(f"{match[1]} {value:.3f}")
  if "tokens_per_second" in values:  # Absent if the only step compiled.
    parts.append(f"{values['tokens_per_second']:,.0f} tok/s")
    parts.append(f"{values['examples_per_second']:,.0f} ex/s")
  if "model_flop_utilisation" in values:
    parts.append(f"MFU {values['model_flop_utilisation']:.1%}")
  return ", ".join(parts)


class MetricsLog:
  """Appends rows to `metrics.jsonl`, one JSON object per line.

  Every row holds `step`, `split` (`train` or `validation`), and metrics as
  fractions or in nats. A row is one write: a killed process leaves at most a
  truncated last line, which the next opening drops.
  """

  def __init__(
    self,
    path: pathlib.Path,
    step: int,
    complete: bool = True,
    validated: bool = True,
  ):
    """Opens the log after `step`, without the rows that will be written again.

    Args:
      path: File of the rows.
      step: Number of completed steps.
      complete: Whether the row of training at `step` itself is retained.
      validated: Whether the row of its validation is.
    """
    self._path = path
    retained = {"train": complete, "validation": complete and validated}
    rows = [
      row
      for row in read_rows(path)
      if row["step"] < step or (row["step"] == step and retained[row["split"]])
    ]
    atomic.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    self._file = path.open("a", encoding="utf-8")

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Adds one row."""
    row = {"step": step, "split": split, **values}
    self._file.write(json.dumps(row) + "\n")
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def read_rows(path: pathlib.Path) -> list[dict]:
  """The rows of a `metrics.jsonl`, without a truncated last line."""
  if not path.exists():
    return []
  rows = []
  lines = path.read_text("utf-8").splitlines()
  for number, line in enumerate(lines, start=1):
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError as error:
      if number == len(lines):
        break
      raise InputError(f"{path}:{number} is not JSON: {error}") from error
  return rows


class TensorBoardLog:
  """Scalars as TensorBoard events, written without TensorFlow."""

  def __init__(self, folder: pathlib.Path, step: int):
    """Opens a new event file; TensorBoard drops events after `step`."""
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    events: Any = event_pb2  # Its classes are made when it is imported.
    summaries: Any = summary_pb2
    self._event, self._summary = events.Event, summaries.Summary
    folder.mkdir(parents=True, exist_ok=True)
    name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
    self._writer = RecordWriter((folder / name).open("wb"))
    self._add(file_version="brain.Event:2")
    start = events.SessionLog(status=events.SessionLog.START)
    self._add(step=step + 1, session_log=start)

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Adds one event with all numbers, as `split/name`."""
    scalars = [
      self._summary.Value(tag=f"{split}/{name}", simple_value=value)
      for name, value in values.items()
      if isinstance(value, int | float)
    ]
    self._add(step=step, summary=self._summary(value=scalars))

  def close(self) -> None:
    """Closes the file."""
    self._writer.close()

  def _add(self, **fields: Any) -> None:
    event = self._event(wall_time=time.time(), **fields)
    self._writer.write(event.SerializeToString())
    self._writer.flush()
