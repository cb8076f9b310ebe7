"""What decides an answer changes what is saved; what does not, does not."""

import json
import shutil

import jax
import numpy as np
import pytest

from calrec_jax import config
from calrec_jax.checkpoint import store
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.models.decoder import Decoder
from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.models.lora import Lora
from calrec_jax.recommend import provenance
from calrec_jax.recommend.prompts import PromptLimits
from calrec_jax.recommend.trained_model import TrainedModel
from calrec_jax.runtime import partitioning
from tests.fixtures import recommend_toys as toys


def save(folder, seed=0, stage="target"):
  draw = np.random.default_rng(seed)
  return store.write_params(
    folder,
    {"layers/kernel": draw.normal(size=(4, 4)).astype(np.float32)},
    lineage={"stage": stage},
    vocabulary={},
  )


def test_a_checkpoint_is_known_wherever_it_lies(tmp_path):
  saved = save(tmp_path / "a")
  known = provenance.of_checkpoint(saved)
  assert (known["stage"], known["name"]) == ("target", "checkpoint_0")
  moved = shutil.copytree(saved, tmp_path / "b" / "checkpoint_0")
  assert provenance.of_checkpoint(moved) == known
  others = [save(tmp_path / "c", seed=1), save(tmp_path / "d", stage="joint")]
  for other in others:
    assert provenance.of_checkpoint(other) != known


@pytest.fixture
def of_answers(tmp_path):
  cache = toys.stand_in(TokenCache, name="shop", fingerprint="ab" * 32)
  checkpoint = save(tmp_path / "stage")

  def known(model=True, tensor=1, limits=None, data=4, **changes):
    decoder = toys.stand_in(Decoder, config=DecoderConfig(**changes))
    mesh = partitioning.make_mesh(
      partitioning.MeshShape(data=data, tensor=tensor),
      jax.devices()[: data * tensor],
    )
    found = provenance.of_answers(
      cache,
      toys.stand_in(TrainedModel, decoder=decoder, checkpoint=checkpoint)
      if model
      else None,
      limits or PromptLimits(),
      mesh,
    )
    return json.loads(json.dumps(found))  # Fit to be saved.

  return known


def test_model_limits_and_the_tensor_axis_decide(of_answers):
  first = of_answers()
  assert first == of_answers()
  assert first == of_answers(data=8)
  assert first != of_answers(tensor=2)
  assert first != of_answers(limits=PromptLimits(max_tokens=64))
  assert first != of_answers(lora=Lora(rank=2))


def test_a_recommender_without_a_model_does_not_depend_on_one(of_answers):
  alone = of_answers(model=False)
  assert "checkpoint" not in alone
  assert alone == of_answers(
    model=False, tensor=2, limits=PromptLimits(max_tokens=64)
  )


def test_settings_of_recommenders_decide(of_answers):
  def bound(*bindings):
    configuration = config.Configuration(
      files=("runs/eval.gin",), bindings=bindings
    )
    with configuration.stage(None):
      return of_answers(model=False)

  first = bound()
  assert first == bound("Evaluation.seed=8", "Protocol.batch_users=3")
  assert first != bound("Sampler.temperature=0.7")
  assert first != bound("DenseSearch.user_rows=2")
