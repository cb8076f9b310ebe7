"""A run preempted at the worst moments ends as one that never was.

In this process, which signals itself at a chosen step or in a validation.
"""

import json
import os
import pathlib
import signal

import pytest
from test_kill_resume import assert_same_checkpoint, rows_of

from calrec_jax.__main__ import main
from calrec_jax.checkpoint import stage_folder, store
from calrec_jax.runtime.preemption import PREEMPTED_STATUS
from calrec_jax.train import checkpointing, telemetry, validation
from tests.fixtures import planted_log

# All out of step: at 4 and 8 a checkpoint's own validation, at 3, 6 and 9 one
# that counts for early stopping.
_SETTINGS = (
  "joint/TRAIN_STEPS=10",
  "Stage.log_period=2",
  "CheckpointPolicy.period=4",
  "CheckpointPolicy.best_metric='loss'",
  "CheckpointPolicy.best_is_highest=False",
  "Validation.metrics=()",
  "Validation.at_start=True",
)
# The step after which, or in whose validation, each run is preempted.
_PREEMPTED = (
  ("validation", 0), ("step", 1), ("step", 3), ("validation", 3),
  ("validation", 4), ("step", 8), ("validation", 8), ("step", 10),
)  # fmt: skip


class Signaller:
  """Preempts the run at a chosen place; counts validations."""

  def __init__(self, monkeypatch):
    self.step, self.validations, self.at = 0, 0, None
    opened = telemetry.StageLog.__init__
    advance = telemetry.StageLog.advance
    validate = validation.Validator.__call__

    def open_at(log, folder, name, step, *settings):
      self.step = step
      opened(log, folder, name, step, *settings)

    def advance_and_signal(log):
      advance(log)
      self.step += 1
      self.signal("step")

    def signal_and_validate(validator, params):
      self.signal("validation")
      values = validate(validator, params)
      self.validations += 1
      return values

    monkeypatch.setattr(telemetry.StageLog, "__init__", open_at)
    monkeypatch.setattr(telemetry.StageLog, "advance", advance_and_signal)
    monkeypatch.setattr(validation.Validator, "__call__", signal_and_validate)

  def signal(self, place):
    if (place, self.step) == self.at:
      os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize(
  "patience",
  [
    "Validation.period=5",
    # Ends the stage early, by what it remembers over all the stops.
    ("Validation.period=3", "Validation.patience=1", "LEARNING_RATE=10.0"),
  ],
  ids=["to the last step", "early stopping"],
)
def test_every_stop_leaves_the_run_as_it_was(
  tmp_path, monkeypatch, capsys, patience
):
  recipe = planted_log.write_folders(tmp_path)
  more = [patience] if isinstance(patience, str) else patience
  signaller = Signaller(monkeypatch)

  def train(model_dir):
    changes = (*_SETTINGS, *more, f"MODEL_DIR='{model_dir}'")
    flags = [f"--gin.{change}" for change in changes]
    return main(["train", f"--gin_file={recipe}", "--stage=joint", *flags])

  assert train(tmp_path / "straight") == 0
  wanted, signaller.validations = signaller.validations, 0
  straight, cut = (tmp_path / name / "joint" for name in ("straight", "cut"))
  last = telemetry.read_rows(straight / telemetry.METRICS_FILE)[-1]["step"]
  stops = [at for at in _PREEMPTED if at in validated_at(straight)]
  for stop in stops:
    signaller.at = stop
    assert train(tmp_path / "cut") == PREEMPTED_STATUS, stop
    newest = checkpointing.newest(cut)
    step = store.step_of(newest) if newest else 0
    assert step == stop[1]
    assert "Preempted: " in capsys.readouterr().err
  signaller.at = None
  assert train(tmp_path / "cut") == 0
  assert f"resumes from step {stops[-1][1]}" in capsys.readouterr().out
  assert_same(cut, straight)
  assert signaller.validations == wanted
  assert (last < 10) == (len(more) > 1)


def validated_at(folder):
  """Where a run can be preempted: after its steps, and in its validations."""
  rows = telemetry.read_rows(folder / telemetry.METRICS_FILE)
  last = rows[-1]["step"]
  return {("step", step) for step in range(1, last + 1)} | {
    ("validation", row["step"]) for row in rows if row["split"] == "validation"
  }


def assert_same(folder: pathlib.Path, expected: pathlib.Path):
  assert rows_of(folder) == rows_of(expected)
  assert store.steps(folder) == store.steps(expected)
  for step in store.steps(expected):
    name = f"checkpoint_{step}"
    assert_same_checkpoint(folder / name, expected / name)
  assert json.loads((folder / stage_folder.HANDOVER).read_text()) == json.loads(
    (expected / stage_folder.HANDOVER).read_text()
  )
  assert not (folder / checkpointing.PREEMPTED).exists()
