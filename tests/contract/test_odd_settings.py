"""Small domains and odd settings train to their end and save."""

import gzip

import pytest

from calrec_jax.__main__ import main
from calrec_jax.checkpoint import stage_folder, store
from calrec_jax.train import telemetry
from tests.fixtures import planted_log

_NOTE = "no user has enough events to validate"


@pytest.fixture(scope="module", name="train")
def fixture_train(tmp_path_factory):
  """Trains on the domain "mart" of a folder, for a few steps."""

  def train(folder, *changes, files=()):
    settings = (
      *("joint/MIXTURE_OR_TASK_NAME='mart'", "joint/TRAIN_STEPS=4"),
      *("CheckpointPolicy.period=2", "Stage.log_period=1"),
      *(f"MODEL_DIR='{folder / 'run'}'", *changes),
    )
    return main(
      [
        "train",
        "--stage=joint",
        f"--gin_file={folder / 'two_domains.gin'}",
        *(f"--gin_file={file}" for file in files),
        *(f"--gin.{setting}" for setting in settings),
      ]
    )

  return train


@pytest.fixture(name="folder")
def fixture_folder(tmp_path):
  planted_log.write_folders(tmp_path)
  return tmp_path


def keep(folder, users, events):
  """Leaves only some users, with their first events."""
  rows = planted_log.purchases(16, groups=2, seed=1)
  path = folder / "domains" / "mart" / "interactions.csv.gz"
  with gzip.open(path, "wt") as file:
    file.write("user_id,item_id,timestamp\n")
    for user in users:
      own = [row for row in rows if row[0] == f"u{user}"]
      for row in own[:events]:
        file.write(",".join(map(str, row)) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize(
  "changes",
  [
    (),
    ("Validation.patience=1", "Validation.at_start=True"),
    ("Validation.metrics=()",),
    ("Validation.metrics=()", "CheckpointPolicy.best_metric=''"),
  ],
)
def test_without_a_user_to_validate(folder, train, capsys, changes):
  keep(folder, range(16), events=2)
  assert train(folder, *changes) == 0
  printed = capsys.readouterr().out
  assert printed.count(_NOTE) == 1
  assert ("early stopping is off" in printed) == ("patience" in str(changes))
  stage = folder / "run" / "joint"
  assert stage_folder.handover(stage) == {
    "checkpoint": "checkpoint_4",
    "steps": 4,
  }
  rows = telemetry.read_rows(stage / telemetry.METRICS_FILE)
  assert {row["split"] for row in rows} == {"train"}
  assert train(folder, *changes) == 0
  assert "finished before" in capsys.readouterr().out


@pytest.mark.slow
def test_a_mixture_in_which_one_domain_has_no_user_to_validate(
  folder, train, capsys
):
  keep(folder, range(16), events=2)
  assert train(folder, "joint/MIXTURE_OR_TASK_NAME='stage_one'") == 0
  assert _NOTE not in capsys.readouterr().out
  rows = telemetry.read_rows(folder / "run" / "joint" / telemetry.METRICS_FILE)
  assert any("ndcg@10" in row for row in rows)


@pytest.mark.slow
def test_one_user(folder, train):
  keep(folder, [3], events=6)
  assert train(folder) == 0


@pytest.mark.slow
def test_losses_choose_where_nothing_else_is_measured(folder, train):
  assert train(folder, "Validation.metrics=()") == 0
  stage = folder / "run" / "joint"
  metrics = store.read_json(stage / "checkpoint_4", store.METRICS)
  assert "loss" in metrics
  assert "ndcg@10" not in metrics


@pytest.mark.slow
def test_a_final_fit(folder, train):
  # Two steps of validation are in no checkpoint's metrics.
  assert train(folder, files=["stages/final_fit.gin"]) == 0
  assert store.steps(folder / "run" / "joint")[-1] == 4


@pytest.mark.slow
def test_a_divergence_names_the_checkpoint_that_is_good(folder, train, capsys):
  def said(*changes):
    assert train(folder, "LEARNING_RATE=1e30", *changes) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "LEARNING_RATE may be too high" in message
    return message

  never = said("CheckpointPolicy.period=1000")
  assert "the loss is nan at step 4" in never
  assert "No checkpoint was saved before it: start again" in never
  # Saved before its step was validated, and followed by no finite loss.
  often = ("CheckpointPolicy.period=1", "joint/TRAIN_STEPS=9")
  message = said(*often, f"MODEL_DIR='{folder / 'often'}'")
  named = message.partition("last good checkpoint is ")[2].partition(":")[0]
  assert store.find(named).parent == folder / "often" / "joint"
  assert f"--gin.INITIAL_CHECKPOINT_PATH=\"'{named}'\"" in message
  assert "--stage=joint" in message
