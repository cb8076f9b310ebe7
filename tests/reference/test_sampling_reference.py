"""Sampling against a loop that has no cache and draws one text at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.recommend.generate import sampling
from tests.fixtures import recommend_toys as toys

LOG_PROB_TOLERANCE = 2e-4  # Up to 10 float32 log-probabilities, summed.
SAMPLES, STEPS = 5, 10
TEMPERATURE = 5.0
LENGTH = 32


sample_token = jax.jit(sampling.sample_token, static_argnums=3)


@functools.partial(jax.jit, static_argnames="module")
def next_logits(module, params, row, length):
  """Logits after the first `length` tokens of a row, from scratch."""
  at = jnp.arange(row.shape[1])[None]
  hidden = module.apply(
    {"params": params}, row, at, (at < length).astype(jnp.int32)
  )
  return module.apply(
    {"params": params}, hidden[0, length - 1], method="logits"
  )


def loop_sample(module, params, prompt, uniform, temperature):
  """One continuation: the whole sequence is read again for every token."""
  tokens, log_prob = list(prompt), 0.0
  for chance in uniform:
    row = np.array([tokens + [0] * (LENGTH - len(tokens))], np.int32)
    logits = next_logits(module, params, row, len(tokens))
    logits = np.asarray(logits, np.float64)
    weights = np.exp((logits[: toys.VOCAB] - logits.max()) / temperature)
    token = np.searchsorted(
      np.cumsum(weights), float(chance) * weights.sum(), side="right"
    )
    log_prob += logits[token] - np.log(np.sum(np.exp(logits)))
    tokens.append(int(token))
    if token == toys.END:
      break
  return tokens[len(prompt) :], log_prob


def prompts(seed=0):
  numbers = np.random.default_rng(seed)
  return [numbers.integers(3, toys.VOCAB, n) for n in (5, 20, 13)]


def run(module, params, given, uniform, temperature=TEMPERATURE, length=LENGTH):
  tokens = np.zeros((len(given), length), np.int32)
  for row, prompt in enumerate(given):
    tokens[row, : len(prompt)] = prompt
  lengths = np.array([len(prompt) for prompt in given], np.int32)
  return sampling.sample(
    module,
    params,
    jnp.asarray(tokens),
    jnp.asarray(lengths),
    jnp.asarray(uniform),
    temperature=temperature,
    end_token=toys.END,
    vocab_size=toys.VOCAB,
  )


def numbers(given, seed=0, samples=SAMPLES, steps=STEPS):
  return np.stack(
    [
      sampling.uniform_numbers(
        seed, sampling.prompt_number(prompt), samples, steps
      )
      for prompt in given
    ]
  )


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {
      "window": 6,
      "global_every": 2,
      "qk_norm": True,
      "post_norms": True,
      "embed_scale": True,
      "rope_theta_local": 100.0,
    },
  ],
  ids=["llama", "gemma"],
)
def test_equals_a_loop_without_a_cache(changes):
  module, params = toys.decoder(**changes)
  given = prompts()
  uniform = numbers(given)
  found = run(module, params, given, uniform)
  for row, prompt in enumerate(given):
    for number in range(SAMPLES):
      wanted, log_prob = loop_sample(
        module, params, prompt, uniform[row, number], TEMPERATURE
      )
      length = int(found.lengths[row, number])
      assert found.tokens[row, number, :length].tolist() == wanted
      assert not found.tokens[row, number, length:].any()
      assert bool(found.ended[row, number]) == (wanted[-1] == toys.END)
      np.testing.assert_allclose(
        found.log_probs[row, number], log_prob, atol=LOG_PROB_TOLERANCE
      )
  assert 0 < np.mean(found.ended) < 1  # Both kinds were seen.


def test_padding_and_company_change_nothing():
  module, params = toys.decoder()
  given = prompts()
  uniform = numbers(given)
  together = run(module, params, given, uniform)
  for row, prompt in enumerate(given):
    alone = run(
      module, params, [prompt], uniform[row : row + 1], length=2 * LENGTH
    )
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
    np.testing.assert_allclose(
      alone.log_probs[0], together.log_probs[row], atol=LOG_PROB_TOLERANCE
    )


def test_an_empty_row_is_not_sampled():
  module, params = toys.decoder()
  given = [*prompts()[:2], np.array([], np.int32)]
  uniform = np.zeros((3, SAMPLES, STEPS), np.float32)
  uniform[:2] = numbers(given[:2])
  found = run(module, params, given, uniform)
  wanted = run(module, params, prompts(), numbers(prompts()))
  np.testing.assert_array_equal(found.tokens[:2], wanted.tokens[:2])
  assert np.isfinite(np.asarray(found.log_probs)).all()


def test_the_loop_stops_when_all_have_ended():
  module, params = toys.decoder()
  given = prompts()
  # With a flat distribution the number decides: the end marker is token 2.
  uniform = np.full(
    (len(given), SAMPLES, STEPS),
    (toys.END + 0.5) / toys.VOCAB,
    np.float32,
  )
  found = run(module, params, given, uniform, temperature=1e6)
  assert found.lengths.tolist() == [[1] * SAMPLES] * len(given)
  assert np.asarray(found.ended).all()


def test_fewer_and_shorter_samples_are_the_first_part_of_more():
  all_numbers = sampling.uniform_numbers(3, 2**63 + 5, 8, 10)
  np.testing.assert_array_equal(
    sampling.uniform_numbers(3, 2**63 + 5, 5, 4), all_numbers[:5, :4]
  )
  assert len(np.unique(all_numbers)) == all_numbers.size
  assert all_numbers.min() >= 0
  assert all_numbers.max() < 1
  for other in ((4, 2**63 + 5), (3, 7)):
    assert not np.any(sampling.uniform_numbers(*other, 8, 10) == all_numbers)


@pytest.mark.parametrize("vocab_size", [40, 128, 300, 384])
def test_a_draw_inverts_the_distribution(vocab_size):
  numbers = np.random.default_rng(vocab_size)
  logits = numbers.normal(size=(6, 50, 384)).astype(np.float32) * 3
  uniform = numbers.random((6, 50), np.float32)
  tokens, log_probs = sample_token(
    jnp.asarray(logits), jnp.asarray(uniform), 0.5, vocab_size
  )
  wide = logits.astype(np.float64)
  weights = np.exp((wide - wide.max(-1, keepdims=True)) / 0.5)
  weights = weights[..., :vocab_size]
  sums = np.cumsum(weights, axis=-1) / weights.sum(-1, keepdims=True)
  wanted = np.sum(sums <= uniform[..., None], axis=-1)
  distance = np.min(np.abs(sums - uniform[..., None]), axis=-1)
  clear = distance > 1e-5  # Elsewhere float32 rounding may decide.
  assert clear.mean() > 0.95
  np.testing.assert_array_equal(np.asarray(tokens)[clear], wanted[clear])
  norm = np.log(np.exp(wide).sum(-1))
  plain = np.take_along_axis(wide, np.asarray(tokens)[..., None], -1)[..., 0]
  np.testing.assert_allclose(log_probs, plain - norm, atol=1e-5)


def test_impossible_tokens_are_never_drawn():
  logits = np.full((1, 6, 300), -np.inf, np.float32)
  logits[..., [7, 260]] = 0.0
  almost_one = np.float32(1 - 2**-24)
  uniform = np.array([[0.0, 0.4999, 0.5, 0.9, almost_one, 1.0]], np.float32)
  tokens, log_probs = sample_token(
    jnp.asarray(logits), jnp.asarray(uniform), 0.5, 300
  )
  assert tokens.tolist() == [[7, 7, 260, 260, 260, 260]]
  np.testing.assert_allclose(log_probs, np.log(0.5), rtol=1e-6)


@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ({"samples": 0}, r"Sampler\.samples"),
    ({"temperature": 0.0}, r"Sampler\.temperature = 0"),
    ({"max_new_tokens": 0}, r"Sampler\.max_new_tokens"),
    ({"rows": 0}, r"Sampler\.rows"),
    ({"seed": -1}, r"Sampler\.seed"),
  ],
)
def test_settings_are_checked(setting, message):
  with pytest.raises(ValueError, match=message):
    sampling.Sampler(**setting)
