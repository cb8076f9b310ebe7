"""What users tune is bound by gin, nested settings included."""

import gin
import pytest

from calrec_jax.recommend import prompts
from calrec_jax.recommend.baselines import bm25
from calrec_jax.recommend.dense import dense
from calrec_jax.recommend.fuse import fuse
from calrec_jax.recommend.generate import ground, sampling


@pytest.fixture(autouse=True)
def _no_bindings():
  gin.clear_config()
  yield
  gin.clear_config()


def test_every_setting_is_bound_by_gin():
  gin.parse_config(
    """
    Sampler.samples = 4
    Grounding.epsilon = 0.5
    BM25.k1 = 1.2
    DenseSearch.chunk = 64
    Fusion.k = 10.0
    PromptLimits.max_tokens = 99
    """
  )
  assert sampling.Sampler().samples == 4
  assert ground.Grounding().epsilon == 0.5
  assert ground.Grounding().bm25.k1 == 1.2
  assert bm25.CatalogueIndex(["one word"]).settings.k1 == 1.2
  assert dense.DenseSearch().chunk == 64
  assert fuse.Fusion().k == 10.0
  assert prompts.PromptLimits().max_tokens == 99


def test_the_defaults_are_the_papers():
  assert sampling.Sampler().samples == 32
  assert sampling.Sampler().temperature == 0.5
  assert ground.Grounding().epsilon == 1 / 5000
  assert (bm25.BM25().k1, bm25.BM25().b) == (1.5, 0.75)
