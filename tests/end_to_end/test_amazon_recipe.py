"""A recipe of the paper on small files in the true format of 2018."""

import json

import pytest

from calrec_jax.__main__ import main
from tests.fixtures import amazon_toys

RECIPE = """
include "recipes/amazon2018_scientific.gin"
include "models/micro.gin"
include "mesh/cpu.gin"

MODEL_DIR = "{folder}/model"
MANUAL_DIR = "{folder}"
CATEGORIES = (
    "amazon2018/Industrial_and_Scientific",
    "amazon2018/Video_Games",
)
Dataset.data_dir = "{folder}/data"
Dataset.vocabulary = @TrainedSentencePiece()
VOCABULARY_SIZE = 400
joint/INITIAL_CHECKPOINT_PATH = None

TASK_FEATURE_LENGTHS = {{"tokens": 1024, "slots": 16}}
BATCH_SIZE = 8
joint/TRAIN_STEPS = 4
target/TRAIN_STEPS = 3
"""


@pytest.mark.slow
def test_both_stages(tmp_path):
  for category in ("Industrial_and_Scientific", "Video_Games"):
    amazon_toys.write_release(tmp_path, "amazon2018", category)
  recipe = tmp_path / "mine.gin"
  recipe.write_text(RECIPE.format(folder=tmp_path))
  assert main(["train", f"--gin_file={recipe}"]) == 0
  domains = {
    "joint": [
      "amazon2018_industrial_and_scientific",
      "amazon2018_video_games",
    ],
    "target": ["amazon2018_industrial_and_scientific"],
  }
  for stage, steps in {"joint": 4, "target": 3}.items():
    folder = tmp_path / "model" / stage
    record = json.loads((folder / "lineage.json").read_text())
    assert record["training"]["steps"] == steps
    assert sorted(record["data"]) == domains[stage]
    assert (folder / f"checkpoint_{steps}").is_dir()
  assert record["parent"]["stage"] == "joint"
