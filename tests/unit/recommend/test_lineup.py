"""Recommenders by name, and through gin."""

import gin
import numpy as np
import pytest
import recommend_toys as toys

from calrec_jax.recommend import lineup, protocol, sampling


@pytest.fixture(autouse=True)
def _no_bindings():
  gin.clear_config()
  yield
  gin.clear_config()


def model():
  module, params = toys.decoder()
  return lineup.Model(
    decoder=module,
    params=params,
    prompt=toys.PROMPT,
    vocabulary=toys.Vocabulary(),
  )


def test_all_names_are_made_in_their_order():
  recommenders = lineup.Lineup().open(toys.catalogue(), model())
  assert [made.name for made in recommenders] == list(lineup.NAMES)
  for made in recommenders:
    assert isinstance(made, protocol.Recommender)
    assert made.describe()


def test_baselines_need_no_model():
  chosen = lineup.Lineup(names=("bm25_history", "popularity"))
  made = chosen.open(toys.catalogue())
  assert [one.name for one in made] == ["bm25_history", "popularity"]
  for one in made:
    one.recommend([np.array([3])], depth=2)


def test_members_of_a_fusion_are_made_though_not_named():
  chosen = lineup.Lineup(
    names=("fused",), fused=("popularity", "bm25_last_item")
  )
  [fused] = chosen.open(toys.catalogue())
  assert fused.describe().startswith(
    "reciprocal ranks of popularity + bm25_last_item"
  )
  assert lineup.Lineup(names=("fused",)).learned == ("generate", "dense")


def test_a_missing_model_is_said():
  with pytest.raises(ValueError, match="dense, which need a trained model"):
    lineup.Lineup(names=("popularity", "dense")).open(toys.catalogue())


@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ({"names": ("populrity",)}, r"Lineup\.names.*Did you mean 'popularity'"),
    ({"names": ()}, r"Lineup\.names is \(\)"),
    ({"names": ("dense", "dense")}, r"each once"),
    ({"fused": ("fused",)}, r"Lineup\.fused"),
  ],
)
def test_settings_are_checked(setting, message):
  with pytest.raises(ValueError, match=message):
    lineup.Lineup(**setting)


def test_every_setting_is_bound_by_gin():
  gin.parse_config(
    """
    Sampler.samples = 4
    Grounding.epsilon = 0.5
    BM25.k1 = 1.2
    DenseSearch.chunk = 64
    Fusion.k = 10.0
    PromptLimits.max_tokens = 99
    Lineup.names = ("generate", "dense")
    """
  )
  chosen = lineup.Lineup()
  assert chosen.sampler == sampling.Sampler(samples=4)
  assert chosen.sampler.samples == 4
  assert chosen.grounding.epsilon == 0.5
  assert chosen.grounding.bm25.k1 == 1.2
  assert chosen.dense.chunk == 64
  assert chosen.fusion.k == 10.0
  assert chosen.limits.max_tokens == 99
  assert chosen.names == ("generate", "dense")
