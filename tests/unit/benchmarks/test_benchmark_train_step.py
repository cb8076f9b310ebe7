"""The benchmark compares two forms that really compute the same."""

import functools
import json

import jax
import numpy as np
import optax
import pytest

from benchmarks import (
  plain_two_pass,
  side_by_side,
  token_accounts,
  train_step,
)
from calrec_jax.data.feed import tokenization
from calrec_jax.data.feed.feed import Feed
from calrec_jax.models.decoder import Decoder, DecoderConfig
from calrec_jax.models.objective import Objective
from tests.fixtures import synthetic_caches

# Sums in another order, in float32, over two layers.
LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
MODEL = DecoderConfig(
  vocab_size=128,
  width=32,
  layers=2,
  heads=2,
  kv_heads=1,
  head_dim=16,
  mlp_width=48,
  dtype="float32",
)


@pytest.fixture(scope="module")
def feed(tmp_path_factory):
  cache = synthetic_caches.write_random(
    tmp_path_factory.mktemp("shop"), users=12, longest_history=12, seed=4
  )
  return Feed(row_tokens=64, row_slots=8, rows=2, context=3).open([cache])


@pytest.fixture(scope="module")
def bench(feed):
  return side_by_side.Bench(MODEL, Objective(), optax.sgd(0.1), [feed.batch(0)])


def _plain(batch):
  return plain_two_pass.pad(plain_two_pass.examples_of(batch))


def test_examples_are_the_prompts_that_inference_would_write(feed):
  [cache] = feed.caches
  expected = set()
  for user in cache.documents("train", range(cache.num_documents("train"))):
    tokens = [cache.catalogue.tokens(item) for item in user.items]
    for start in range(len(tokens)):
      for stop in range(start + 1, len(tokens)):
        prompt = tokenization.prompt_tokens(cache.prompt, tokens[start:stop])
        joint = np.concatenate([prompt, tokens[stop]])
        expected.add((joint.tobytes(), len(tokens[stop])))
  found = plain_two_pass.examples_of(feed.batch(0))
  assert len(found) == (feed.batch(0).slot_items >= 0).sum()
  for example in found:
    assert (example.joint.tobytes(), example.target_tokens) in expected
    target = example.joint[-example.target_tokens :]
    np.testing.assert_array_equal(
      example.alone, tokenization.item_segment_tokens(cache.prompt, target)
    )


@pytest.mark.slow
def test_both_forms_have_the_same_losses_and_gradients(feed, bench):
  # The defaults are what `Bench.check` compares.
  objective = Objective(
    direction="both",
    same_user_negatives=True,
    alpha=0.4,
    beta=-0.1,
    temperature=0.1,
  )
  batch = feed.batch(0)

  def value_and_grad(form, given):
    return jax.jit(
      jax.value_and_grad(functools.partial(form, Decoder(MODEL)), has_aux=True)
    )(bench.state.params, given)

  (loss, parts), gradient = value_and_grad(objective, batch)
  plain_form = plain_two_pass.PlainObjective(objective)
  (plain, plain_parts), plain_gradient = value_and_grad(
    plain_form, _plain(batch)
  )
  np.testing.assert_allclose(loss, plain, rtol=LOSS_TOLERANCE)
  for name, part in plain_parts.items():
    assert float(part.weight) == float(parts[name].weight)
    np.testing.assert_allclose(
      part.host_mean(), parts[name].host_mean(), rtol=LOSS_TOLERANCE
    )
  scale = optax.tree.norm(gradient)
  difference = optax.tree.norm(
    jax.tree.map(np.subtract, gradient, plain_gradient)
  )
  assert difference < GRADIENT_TOLERANCE * scale


@pytest.mark.slow
def test_a_form_that_computes_something_else_is_refused(bench):
  assert max(bench.check().values()) <= side_by_side.TOLERANCES["float32"]
  [plain] = bench.plain_batches
  wrong = plain.in_target.copy()
  wrong[:, 0] = True
  bench.plain_batches = [plain._replace(in_target=wrong)]
  with pytest.raises(side_by_side.DisagreementError, match="differs by"):
    bench.check()
  bench.plain_batches = [plain]


def test_dropout_is_refused(feed):
  config = DecoderConfig(vocab_size=128, dropout=0.1)
  with pytest.raises(ValueError, match=r"DecoderConfig\.dropout"):
    side_by_side.Bench(config, Objective(), optax.sgd(0.1), [feed.batch(0)])


def test_accounts_add_up(feed):
  batches = [feed.batch(step) for step in range(3)]
  plain = [_plain(batch) for batch in batches]
  accounts = token_accounts.account(MODEL, batches, plain)
  for form in ("packed", "plain"):
    fractions = accounts[f"share_of_{form}_flops"]
    assert sum(fractions.values()) == pytest.approx(1)
    assert min(fractions.values()) >= 0
  examples = sum(len(batch.slot_items) for batch in plain)
  filled = sum((batch.segment_ids > 0).sum() for batch in batches)
  assert accounts["packed"]["real_tokens_per_example"] == pytest.approx(
    filled / examples
  )
  joint = sum(
    len(example.joint) + len(example.alone)
    for batch in batches
    for example in plain_two_pass.examples_of(batch)
  )
  assert accounts["plain"]["real_tokens_per_example"] == pytest.approx(
    joint / examples
  )
  assert (
    accounts["packed"]["flops_per_example"]
    < accounts["plain"]["flops_per_example"]
  )


@pytest.mark.slow
def test_a_comparison_gives_a_row_of_json(bench):
  row = side_by_side.compare(bench, repetitions=1)
  assert json.loads(json.dumps(row)) == row
  for form in ("packed", "plain"):
    assert row[form]["examples_per_second"] > 0
    assert row[form]["tokens_per_second"] >= row[form]["real_tokens_per_second"]
  text = train_step.describe(
    {
      "model": "tiny",
      "data": {"shop": "0"},
      "machine": {"device": "cpu", "cores": 1},
      "row_tokens": 128,
      **row,
    }
  )
  assert "examples/s" in text
