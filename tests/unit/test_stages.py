"""What a stage records of its optimizer, so that another one is refused."""

import gin
import pytest

from calrec_jax import config, stages


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
    "warmup_cosine.steps": 300,
  }


def test_a_macro_that_stands_for_a_reference():
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
