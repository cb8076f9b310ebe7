"""Which recommenders are made, by their names."""

import gin
import pytest

from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.recommend import registry
from calrec_jax.recommend.prompts import PromptLimits
from tests.fixtures import recommend_toys as toys


@pytest.fixture
def factory():
  cache = toys.stand_in(
    TokenCache,
    catalogue=toys.catalogue(),
    purchases=list,
    targets_differ=False,
    name="shop",
  )
  yield registry.RecommenderFactory(
    cache, None, PromptLimits(max_tokens=64), toys.mesh()
  )
  gin.clear_config()


def test_an_unknown_name_is_refused_with_the_nearest(factory):
  with pytest.raises(ValueError, match=r"'dence'.*dense"):
    factory.make(["dence"])


@pytest.mark.parametrize("name", ["sasreck", "fused", "reranked"])
def test_what_cannot_be_fused_is_refused(factory, name):
  gin.bind_parameter("Fusion.members", ("popularity", name))
  with pytest.raises(ValueError, match=rf"Fusion\.members names '{name}'"):
    factory.make(["fused"])


def test_a_model_s_recommender_needs_one(factory):
  assert registry.needs_model(["popularity", "fused"])
  assert not registry.needs_model(["popularity", "sasrec"])
  with pytest.raises(ValueError, match="needs a checkpoint"):
    factory.make(["dense"])
