"""What a running stage tells: a progress bar, `metrics.jsonl`, TensorBoard.

A stage that was killed writes the steps after its last checkpoint a second
time, so opening the writers drops the rows after the step it resumes from.
"""

from __future__ import annotations

import json
import pathlib
import re
import socket
import time
from collections.abc import Mapping

import jax
import tqdm

from calrec_jax.errors import InputError
from calrec_jax.storage import atomic

METRICS_FILE = "metrics.jsonl"
_LOSS_PART = re.compile(r"loss_(\w+)_nats")


class StageLog:
  """All that a stage writes about itself, in one place.

  Only the first process of a job writes.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    name: str,
    step: int,
    steps: int,
    complete: bool = True,
  ):
    """Opens the writers after `step` of `steps`.

    Args:
      folder: Folder of the stage.
      name: Name of the stage.
      step: Last step that was made.
      steps: Number of steps of the whole stage.
      complete: Whether the rows of `step` itself were written.
    """
    self._progress = Progress(name, step, steps)
    self._writers = []
    if jax.process_index() == 0:
      self._writers = [
        MetricsLog(folder / METRICS_FILE, step, complete),
        TensorBoardLog(folder / "tensorboard", step if complete else step - 1),
      ]

  def advance(self) -> None:
    """One step was handed to the devices."""
    self._progress.advance()

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Adds a row; training shows on the bar, validation above it."""
    for writer in self._writers:
      writer.write(step, split, values)
    if split == "train":
      self._progress.show(values)
    else:
      shown = ", ".join(f"{key} {value:.4f}" for key, value in values.items())
      self._progress.write(f"step {step}, {split}: {shown}")

  def say(self, text: str) -> None:
    """Prints a line above the bar."""
    self._progress.write(text)

  def close(self) -> None:
    """Closes the writers."""
    self._progress.close()
    for writer in self._writers:
      writer.close()


class MetricsLog:
  """Appends rows to `metrics.jsonl`, one JSON object a line.

  Every row holds `step`, `split` (`train` or `validation`) and fractions or
  nats; a row is one write, so a killed process leaves whole lines or one
  broken last line, which the next opening drops.
  """

  def __init__(self, path: pathlib.Path, step: int, complete: bool = True):
    """Opens the log after `step`, or from it on where it is not `complete`."""
    self._path = path
    last = step if complete else step - 1
    rows = [row for row in read_rows(path) if row["step"] <= last]
    atomic.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    self._file = path.open("a")

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Adds one row."""
    row = {"step": step, "split": split, **values}
    self._file.write(json.dumps(row) + "\n")
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def read_rows(path: pathlib.Path) -> list[dict]:
  """The rows of a `metrics.jsonl`; a broken last line is left out."""
  if not path.exists():
    return []
  rows = []
  lines = path.read_text().splitlines()
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
    """Opens a new event file; TensorBoard drops what lies beyond `step`."""
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    self._event, self._summary = event_pb2.Event, summary_pb2.Summary
    folder.mkdir(parents=True, exist_ok=True)
    name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
    self._writer = RecordWriter((folder / name).open("wb"))
    self._add(self._event(wall_time=time.time(), file_version="brain.Event:2"))
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add(
      self._event(wall_time=time.time(), step=step + 1, session_log=start)
    )

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Adds one event that holds all values, as `split/name`."""
    scalars = [
      self._summary.Value(tag=f"{split}/{name}", simple_value=value)
      for name, value in values.items()
      if isinstance(value, int | float)
    ]
    summary = self._summary(value=scalars)
    self._add(self._event(wall_time=time.time(), step=step, summary=summary))

  def close(self) -> None:
    """Closes the file."""
    self._writer.close()

  def _add(self, event) -> None:
    self._writer.write(event.SerializeToString())
    self._writer.flush()


class Progress:
  """The bar of one stage: losses, tokens/s, examples/s, FLOP utilisation."""

  def __init__(self, name: str, start: int, steps: int):
    """Shows `start` of `steps` done."""
    self._bar = tqdm.tqdm(
      total=steps,
      initial=start,
      desc=name,
      unit="step",
      dynamic_ncols=True,
      mininterval=0.5,
      disable=jax.process_index() != 0,
    )

  def advance(self) -> None:
    """One step was handed to the devices."""
    self._bar.update(1)

  def show(self, values: Mapping[str, float]) -> None:
    """Shows the newest figures after the bar."""
    parts = [f"loss {values['loss']:.3f}"]
    for name, value in values.items():
      if match := _LOSS_PART.fullmatch(name):
        parts.append(f"{match[1]} {value:.3f}")
    if "tokens_per_second" in values:  # Not where the only step compiled.
      parts.append(f"{values['tokens_per_second']:,.0f} tok/s")
      parts.append(f"{values['examples_per_second']:,.0f} ex/s")
    if "model_flop_utilisation" in values:
      parts.append(f"MFU {values['model_flop_utilisation']:.1%}")
    self._bar.set_postfix_str(", ".join(parts), refresh=False)

  def write(self, text: str) -> None:
    """Prints a line above the bar."""
    if jax.process_index() == 0:
      self._bar.write(text)

  def close(self) -> None:
    """Leaves the bar as it stands."""
    self._bar.close()
