"""The recipes of the paper's six targets: what they say once put together."""

import gin
import pytest

from calrec_jax import config
from calrec_jax.data import dataset
from calrec_jax.data.feed import feed
from calrec_jax.models.objective import Objective

TARGETS = {
  "arts": "amazon2018_arts_crafts_and_sewing",
  "games": "amazon2018_video_games",
  "instruments": "amazon2018_musical_instruments",
  "office": "amazon2018_office_products",
  "pet": "amazon2018_pet_supplies",
  "scientific": "amazon2018_industrial_and_scientific",
}


@pytest.fixture(autouse=True)
def clean_gin():
  yield
  gin.clear_config()


def apply(name, stage):
  config.Configuration(files=(f"recipes/amazon2018_{name}.gin",)).apply(stage)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_comes_after_all_thirteen(name):
  apply(name, "joint")
  assert config.macro("STAGES") == ("joint", "target")
  made = dataset.Dataset()
  assert len(made.names()) == 13
  joint = made.select(config.macro("MIXTURE_OR_TASK_NAME"))
  assert joint == made.domains
  assert {domain.dedup for domain in joint} == {"consecutive_id"}
  assert {domain.min_count for domain in joint} == {5}
  assert all(domain.source.core for domain in joint)
  labels = [field.label for field in joint[0].chosen_fields()]
  assert labels == ["Title", "Category", "Brand", "Price"]
  with gin.config_scope("joint"):
    assert Objective() == Objective(
      alpha=0.125, beta=0.025, temperature=0.5, direction="item_to_user"
    )
    settings = feed.Feed(row_tokens=8, row_slots=1, rows=1)
  assert (settings.mixing_exponent, settings.targets) == (0.3, "all")
  apply(name, "target")
  assert config.macro("MIXTURE_OR_TASK_NAME") == TARGETS[name]
  assert config.macro("INITIAL_CHECKPOINT_PATH") is None  # The stage before.
  assert TARGETS[name] in made.names()


def test_no_two_write_to_one_folder():
  folders = []
  for name in TARGETS:
    apply(name, "target")
    folders.append(config.macro("MODEL_DIR"))
  assert len(set(folders)) == len(TARGETS)
