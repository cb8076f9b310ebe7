"""What a stage records of its optimizer, and what it may start from."""

import gin
import pytest

from calrec_jax import config, errors
from calrec_jax.train import stages


@pytest.fixture(autouse=True)
def clean_gin():
  yield
  gin.clear_config()


def bindings(*changes, files=(), stage="target"):
  configuration = config.Configuration(
    files=("recipes/quickstart.gin", *files), bindings=changes
  )
  with configuration.stage(stage):
    return stages.optimizer_bindings()


def test_names_of_references_and_values_of_macros():
  assert bindings("target/LEARNING_RATE=0.25") == {
    "Stage.optimizer": "@adamw()",
    "adamw.learning_rate": "@warmup_cosine()",
    "warmup_cosine.peak": 0.25,
    "warmup_cosine.steps": 200,
  }


def test_a_macro_that_is_a_reference():
  found = bindings("MINE=@warmup_linear()", "adamw.learning_rate=%MINE")
  assert found["adamw.learning_rate"] == "@warmup_linear()"


def test_another_optimizer_with_everything_bound_is_another_record():
  # Both optimizers' values are bound, so that their names alone differ.
  both = ("tuning/adafactor.gin",)
  found = bindings(files=both)
  other = bindings("Stage.optimizer=@adamw()", files=both)
  assert found != other
  assert found["Stage.optimizer"] == "@adafactor()"
  assert found["constant.value"] == 0.003
  assert {**found, "Stage.optimizer": "@adamw()"} == other


@pytest.mark.parametrize(
  ("recipe", "changes", "recorded"),
  [
    ("quickstart", ("MICROBATCHES=4",), None),
    ("quickstart", ("MICROBATCHES=4", "DecoderConfig.dropout=0.1"), 4),
    ("quickstart", ("DecoderConfig.dropout=0.1",), None),
    ("sasrec_own_log", ("MICROBATCHES=4",), None),
    ("sasrec_own_log", ("MICROBATCHES=4", "NEGATIVES=8"), 4),
  ],
)
def test_microbatches_are_recorded_where_they_draw(recipe, changes, recorded):
  if recipe == "sasrec_own_log":
    changes += ("INTERACTIONS='log.csv'", "SASRecConfig.dropout=0.0")
  configuration = config.Configuration(
    files=(f"recipes/{recipe}.gin",), bindings=changes
  )
  with configuration.stage("target" if recipe == "quickstart" else None):
    stage = stages.Stage()
    described = stages.describe_training(stage, stage.decoder, {})
  assert described.get("microbatches") == recorded


def refuse_shared_start(*changes):
  configuration = config.Configuration(
    files=("recipes/quickstart.gin",), bindings=changes
  )
  configuration.apply()
  stages.refuse_shared_start(stages.names())


def test_a_start_for_all_stages_is_refused():
  with pytest.raises(config.ConfigurationError, match="joint/INITIAL"):
    refuse_shared_start("INITIAL_CHECKPOINT_PATH='gemma3-270m'")


@pytest.mark.parametrize(
  "changes",
  [
    (),
    ("joint/INITIAL_CHECKPOINT_PATH='gemma3-270m'",),
    ("INITIAL_CHECKPOINT_PATH='a'", "target/INITIAL_CHECKPOINT_PATH=None"),
    ("INITIAL_CHECKPOINT_PATH='a'", "target/INITIAL_CHECKPOINT_PATH='b'"),
  ],
)
def test_a_start_for_a_stage_is_taken(changes):
  refuse_shared_start(*changes)


@pytest.mark.parametrize("name", ["''", "' '"])
def test_a_folder_without_a_name_is_refused(name):
  configuration = config.Configuration(
    files=("recipes/quickstart.gin",), bindings=(f"MODEL_DIR={name}",)
  )
  with (
    configuration.stage("target"),
    pytest.raises(ValueError, match="names no folder"),
  ):
    stages.Stage()


def test_a_file_is_no_folder(tmp_path):
  path = tmp_path / "log.csv"
  path.touch()
  configuration = config.Configuration(
    files=("recipes/quickstart.gin",), bindings=(f"MODEL_DIR='{path}'",)
  )
  with (
    configuration.stage("target"),
    pytest.raises(ValueError, match="is a file; it must be a folder"),
  ):
    stages.Stage()


def test_a_bucket_is_no_folder():
  configuration = config.Configuration(
    files=("recipes/quickstart.gin",), bindings=("MODEL_DIR='gs://b/run'",)
  )
  with (
    configuration.stage("target"),
    pytest.raises(ValueError, match=r"gs://b/run.* is no folder"),
  ):
    stages.Stage()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ("Validation.period=0", "Validation.period = 0: must be at least 1"),
    ("Validation.rule='not_lst'", "Validation.rule = 'not_lst': must be one"),
    ("Validation.metrics=('recal@10',)", "Validation.metrics = .*'recal@10'"),
    (
      "CheckpointPolicy.best_metric='ndcg@01'",
      "CheckpointPolicy.best_metric = 'ndcg@01': .*mean 'ndcg@10'",
    ),
  ],
)
def test_a_wrong_validation_is_refused_before_the_first_step(change, message):
  configuration = config.Configuration(
    files=("recipes/quickstart.gin",), bindings=(change, "MODEL_DIR='here'")
  )
  with (
    configuration.stage("target"),
    pytest.raises(errors.InputError, match=message),
  ):
    stages.Stage()
