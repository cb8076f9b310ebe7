"""A validation that fails or is killed loses no step, and is made up for.

In this process; a kill is an exception that nothing handles.
"""

import json
import shutil

import pytest
from test_kill_resume import assert_same_checkpoint, rows_of

from calrec_jax.__main__ import main
from calrec_jax.checkpoint import stage_folder, store
from calrec_jax.train import checkpointing, early_stopping, validation
from tests.fixtures import planted_log

_SETTINGS = (
  "joint/TRAIN_STEPS=8",
  "Stage.log_period=2",
  "CheckpointPolicy.period=4",
  "CheckpointPolicy.keep=1",
  "Validation.metrics=()",
)


class Killed(BaseException):
  """Nothing catches it, as nothing catches SIGKILL."""


@pytest.fixture(scope="module", name="train")
def fixture_train(tmp_path_factory):
  recipe = planted_log.write_folders(tmp_path_factory.mktemp("data"))

  def train(model_dir, *changes):
    changes = (*_SETTINGS, *changes, f"MODEL_DIR='{model_dir}'")
    flags = [f"--gin.{change}" for change in changes]
    return main(["train", f"--gin_file={recipe}", "--stage=joint", *flags])

  return train


def failing_at(monkeypatch, number, error):
  """Makes the `number`-th validation from now on fail."""
  validate, count = validation.Validator.__call__, 0

  def call(validator, params):
    nonlocal count
    count += 1
    if count == number:
      raise error
    return validate(validator, params)

  monkeypatch.setattr(validation.Validator, "__call__", call)


@pytest.mark.slow
@pytest.mark.parametrize("error", [Killed(), ValueError("out of memory")])
@pytest.mark.parametrize(
  "more",
  [
    ("Validation.period=4",),
    ("Validation.period=2", "Validation.patience=9"),
    ("Validation.period=4", "CheckpointPolicy.best_metric=''"),
  ],
  ids=["best", "patience", "last"],
)
def test_a_failed_validation_is_made_up_for(
  tmp_path, monkeypatch, train, more, error, capsys
):
  assert train(tmp_path / "straight", *more) == 0
  straight = tmp_path / "straight" / "joint"
  number = 2 if "patience" in str(more) else 1  # At step 4.
  with monkeypatch.context() as patch:
    failing_at(patch, number, error)
    with pytest.raises(type(error)) as raised:
      train(tmp_path / "cut", *more)
  cut = tmp_path / "cut" / "joint"
  assert store.steps(cut)[-1] == 4
  assert not (cut / f"checkpoint_4/{store.METRICS}").exists()
  if isinstance(error, ValueError):
    assert "checkpoint" in raised.value.__notes__[0]
  capsys.readouterr()
  assert train(tmp_path / "cut", *more) == 0
  assert "joint: resumes from step 4" in capsys.readouterr().out
  assert_same(cut, straight)


@pytest.mark.slow
def test_a_failure_between_checkpoints_loses_no_step(
  tmp_path, monkeypatch, train
):
  more = ("Validation.period=3",)
  assert train(tmp_path / "straight", *more) == 0
  with monkeypatch.context() as patch:
    failing_at(patch, 1, ValueError("oops"))
    with pytest.raises(ValueError, match="oops"):
      train(tmp_path / "cut", *more)
  cut = tmp_path / "cut" / "joint"
  assert store.step_of(checkpointing.newest(cut)) == 3
  assert train(tmp_path / "cut", *more) == 0
  assert_same(cut, tmp_path / "straight" / "joint")


@pytest.mark.slow
def test_killed_while_a_validation_is_added(tmp_path, monkeypatch, train):
  """Between the state of early stopping and the metrics."""
  more = ("Validation.period=4", "Validation.patience=9")
  assert train(tmp_path / "straight", *more) == 0
  straight = tmp_path / "straight" / "joint"
  cut = tmp_path / "cut" / "joint"
  add = store.add_json

  def add_and_die(checkpoint, item, value):
    if item == store.METRICS:
      raise Killed
    add(checkpoint, item, value)

  with monkeypatch.context() as patch:
    patch.setattr(store, "add_json", add_and_die)
    with pytest.raises(Killed):
      train(tmp_path / "cut", *more)
  assert train(tmp_path / "cut", *more) == 0
  assert_same(cut, straight)
  states = [
    store.read_json(folder / "checkpoint_8", checkpointing.EARLY_STOPPING)
    for folder in (cut, straight)
  ]
  assert states[0] == states[1]


@pytest.mark.slow
def test_a_checkpoint_that_is_gone_is_trained_again(tmp_path, train, capsys):
  assert train(tmp_path / "run") == 0
  folder = tmp_path / "run" / "joint"
  kept = tmp_path / "kept"
  shutil.move(folder / "checkpoint_8", kept)
  capsys.readouterr()
  assert train(tmp_path / "run") == 0
  assert "checkpoint_8 is missing" in capsys.readouterr().out
  assert_same_checkpoint(folder / "checkpoint_8", kept)


def assert_same(folder, expected):
  assert rows_of(folder) == rows_of(expected)
  assert store.steps(folder) == store.steps(expected)
  for step in store.steps(expected):
    name = f"checkpoint_{step}"
    arrays = [store.read_arrays(path / name) for path in (folder, expected)]
    for path, array in arrays[0].items():
      assert array.tobytes() == arrays[1][path].tobytes(), path
    assert (folder / name / store.METRICS).exists() == (
      expected / name / store.METRICS
    ).exists()
  handovers = [
    json.loads((path / stage_folder.HANDOVER).read_text())
    for path in (folder, expected)
  ]
  assert handovers[0] == handovers[1]
  assert not (folder / checkpointing.PREEMPTED).exists()


def test_a_repeated_validation_counts_once():
  rank = checkpointing.CheckpointPolicy(best_metric="m").rank
  stopping = early_stopping.EarlyStopping(3, rank)
  assert stopping.update({"m": 1.0}, 4)
  again = early_stopping.EarlyStopping(3, rank)
  again.resume(stopping.state())
  assert again.update({"m": 1.0}, 4)
  assert again.state() == stopping.state()
