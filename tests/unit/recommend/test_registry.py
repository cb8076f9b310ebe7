"""Which recommenders are made, by their names."""

import gin
import pytest

from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.recommend import registry
from calrec_jax.recommend.prompts import PromptLimits
from tests.fixtures import recommend_toys as toys
from tests.fixtures.stand_ins import stand_in


@pytest.fixture
def workshop():
  cache = stand_in(
    TokenCache, catalogue=toys.catalogue(), purchases=list, name="shop"
  )
  yield registry.Workshop(cache, None, PromptLimits(max_tokens=64), None)
  gin.clear_config()


def test_an_unknown_name_is_refused_with_the_nearest(workshop):
  with pytest.raises(ValueError, match=r"'dence'.*dense"):
    workshop.make(["dence"])


@pytest.mark.parametrize("name", ["sasreck", "fused", "reranked"])
def test_what_cannot_be_fused_is_refused(workshop, name):
  gin.bind_parameter("Fusion.members", ("popularity", name))
  with pytest.raises(ValueError, match=rf"Fusion\.members names '{name}'"):
    workshop.make(["fused"])


def test_a_model_s_recommender_needs_one(workshop):
  assert registry.needs_model(["popularity", "fused"])
  assert not registry.needs_model(["popularity", "sasrec"])
  with pytest.raises(ValueError, match="needs a checkpoint"):
    workshop.make(["dense"])
