"""Which recommenders are made, by their names."""

import pathlib

import gin
import pytest

from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.errors import InputError
from calrec_jax.models.decoder import Decoder
from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.recommend import registry
from calrec_jax.recommend.prompts import PromptLimits
from calrec_jax.recommend.trained_model import TrainedModel
from tests.fixtures import recommend_toys as toys


def factory_of(model):
  cache = toys.stand_in(
    TokenCache,
    catalogue=toys.catalogue(),
    purchases=list,
    targets_differ=False,
    name="shop",
  )
  return registry.RecommenderFactory(
    cache, model, PromptLimits(max_tokens=64), toys.mesh()
  )


@pytest.fixture
def factory():
  yield factory_of(None)
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


@pytest.mark.parametrize("name", ["generate", "constrained", "reranked"])
def test_a_model_that_never_learned_to_write_is_refused(name):
  training = {"Objective": {"alpha": 0.25, "beta": 0.75}}
  model = TrainedModel(
    Decoder(DecoderConfig(vocab_size=8)),
    {},
    pathlib.Path("x"),
    {"training": training},
  )
  with pytest.raises(InputError, match=r"without the language model's loss"):
    factory_of(model).make([name])
