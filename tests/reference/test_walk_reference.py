"""Walks along a trie against loops over dictionaries that have no cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.recommend import prefix
from calrec_jax.recommend.constrain import likelihood, trie, walk
from calrec_jax.recommend.generate import sampling
from tests.fixtures import recommend_toys as toys

LOG_PROB_TOLERANCE = 2e-4  # Up to 10 float32 log-probabilities, summed.
LENGTH = 40
TEMPERATURE = 4.0
GEMMA = {
  "window": 6,
  "global_every": 2,
  "qk_norm": True,
  "post_norms": True,
  "embed_scale": True,
  "rope_theta_local": 100.0,
}


def items(num_items=60, begin=(), seed=0, words=12):
  numbers = np.random.default_rng(seed)
  found = {
    (*begin, *numbers.integers(10, 10 + words, numbers.integers(1, 6)))
    for _ in range(num_items)
  }
  # Long forced runs, and one text that continues where another ends.
  found |= {(*begin, 10, 11), (*begin, 10, 11, *range(12, 34)), (*begin, 9)}
  found |= {(*begin, 10, 11, *range(12, 33), 35)}
  return sorted((*map(int, item), toys.END) for item in found)


def trie_of(sequences):
  return trie.build(
    trie.Texts(
      np.concatenate([np.array(text, np.int32) for text in sequences]),
      np.cumsum([0, *map(len, sequences)]),
    )
  )


def prompts(seed=0):
  numbers = np.random.default_rng(seed)
  return [numbers.integers(3, toys.VOCAB, n) for n in (5, 20, 13)]


@functools.partial(jax.jit, static_argnames="module")
def _logits_after(module, params, row, length):
  at = jnp.arange(row.shape[1])[None]
  hidden = module.apply(
    {"params": params}, row, at, (at < length).astype(jnp.int32)
  )
  return module.apply(
    {"params": params}, hidden[0, length - 1], method="logits"
  )


class Plain:
  """A model with its catalogue as nested choices; everything from scratch."""

  def __init__(self, module, params, sequences):
    self.module, self.params, self.sequences = module, params, sequences
    self.following = {}
    for text in sequences:
      for depth in range(len(text)):
        self.following.setdefault(text[:depth], set()).add(text[depth])
    self._known = {}

  def log_probs(self, prompt, so_far, temperature=1.0):
    """Choices, and their log-probabilities with and without temperature."""
    key = (prompt.tobytes(), so_far)
    tokens = sorted(self.following[so_far])
    if key not in self._known:
      row = np.zeros((1, 64), np.int32)
      whole = [*prompt, *so_far]
      row[0, : len(whole)] = whole
      logits = _logits_after(self.module, self.params, row, len(whole))
      self._known[key] = np.asarray(logits, np.float64)[tokens]
    logits = self._known[key]
    return tokens, *(
      scaled - np.log(np.sum(np.exp(scaled)))
      for scaled in (logits, logits / temperature)
    )

  def sample(self, prompt, uniform):
    """The text that these numbers lead to, and its log-probability."""
    so_far, log_prob, numbers = (), 0.0, iter(uniform)
    while so_far not in self.sequences:
      tokens, plain, tempered = self.log_probs(prompt, so_far, TEMPERATURE)
      place = 0
      if len(tokens) > 1:
        sums = np.cumsum(np.exp(tempered))
        place = int(np.sum(sums <= float(next(numbers)) * sums[-1]))
      log_prob += plain[place]
      so_far = (*so_far, tokens[place])
    return self.sequences.index(so_far), log_prob

  def beams(self, prompt, width):
    """The texts that a search of this width finds, best first."""
    alive, ended = [(0.0, ())], []
    while alive:
      pool = [(score, text, True) for score, text in ended]
      for score, so_far in alive:
        tokens, plain, _ = self.log_probs(prompt, so_far)
        for token, log_prob in zip(tokens, plain, strict=True):
          text = (*so_far, token)
          # Decided texts are not read on.
          while len(self.following.get(text, ())) == 1 and self._decided(text):
            text = (*text, *self.following[text])
          pool.append((score + log_prob, text, text in self.sequences))
      pool.sort(key=lambda entry: -entry[0])
      ended = [(s, t) for s, t, done in pool[:width] if done]
      alive = [(s, t) for s, t, done in pool[:width] if not done]
    return [(self.sequences.index(text), score) for score, text in ended]

  def _decided(self, text):
    return sum(item[: len(text)] == text for item in self.sequences) == 1


@functools.cache
def prepared(begin, gemma):
  module, params = toys.decoder(**(GEMMA if gemma else {}))
  sequences = items(begin=begin)
  return Plain(module, params, sequences), trie_of(sequences)


def run(plain, built, given, *, samples, beams, length=LENGTH):
  tokens = np.zeros((len(given), length), np.int32)
  for row, prompt in enumerate(given):
    tokens[row, : len(prompt)] = prompt
  lengths = np.array([len(prompt) for prompt in given], np.int32)
  read = prefix.read(plain.module, plain.params, tokens, lengths)
  uniform = None
  if not beams:
    uniform = np.stack(
      [
        sampling.uniform_numbers(
          0, sampling.prompt_number(prompt), samples, built.max_choices
        )
        for prompt in given
      ]
    )
  found = walk.walk(
    plain.module,
    plain.params,
    read,
    built.on_device(),
    uniform,
    bounds=walk.bounds(built, samples, beams=beams),
    hypotheses=samples,
    temperature=TEMPERATURE,
  )
  return uniform, walk.Walked(*map(np.asarray, found))


@pytest.mark.parametrize(
  ("begin", "gemma", "samples"),
  [
    ((8, 8, 7), True, 4),
    pytest.param((), False, 9, marks=pytest.mark.slow),
  ],
  ids=["gemma, forced root", "llama"],
)
def test_samples_equal_a_loop_without_a_cache(begin, gemma, samples):
  plain, built = prepared(begin, gemma)
  given = prompts()
  uniform, found = run(plain, built, given, samples=samples, beams=False)
  assert len(np.unique(found.texts)) > samples
  for row, prompt in enumerate(given):
    for number in range(samples):
      text, log_prob = plain.sample(prompt, uniform[row, number])
      assert found.texts[row, number] == text
      np.testing.assert_allclose(
        found.log_probs[row, number], log_prob, atol=LOG_PROB_TOLERANCE
      )


@pytest.mark.parametrize(
  ("begin", "gemma", "width"),
  [
    ((), False, 4),
    pytest.param((8, 8, 7), True, 9, marks=pytest.mark.slow),
    pytest.param((), False, 80, marks=pytest.mark.slow),
  ],
  ids=["llama", "gemma, forced root", "more than there are"],
)
def test_beams_equal_a_plain_search(begin, gemma, width):
  plain, built = prepared(begin, gemma)
  given = prompts()
  _, found = run(plain, built, given, samples=width, beams=True)
  for row, prompt in enumerate(given):
    wanted = plain.beams(prompt, width)
    texts, scores = zip(*wanted, strict=True)
    assert found.texts[row, : len(wanted)].tolist() == list(texts)
    np.testing.assert_allclose(
      found.log_probs[row, : len(wanted)], scores, atol=LOG_PROB_TOLERANCE
    )
    assert (found.texts[row, len(wanted) :] == -1).all()
    if width > built.num_texts:  # Over all items they sum to 1.
      np.testing.assert_allclose(np.sum(np.exp(scores)), 1.0, rtol=1e-4)


@pytest.mark.parametrize("gemma", [False, True], ids=["llama", "gemma"])
def test_likelihoods_equal_those_of_whole_sequences(gemma):
  plain, _ = prepared((8, 8, 7), gemma)
  given = prompts()
  texts = plain.sequences[:: len(plain.sequences) // 5]
  texts = [plain.sequences[0], *texts, max(plain.sequences, key=len)]
  tokens = np.zeros((len(given), LENGTH), np.int32)
  continuations = np.zeros((len(given), len(texts) + 1, 29), np.int32)
  lengths = np.zeros(continuations.shape[:2], np.int32)
  for row, prompt in enumerate(given):
    tokens[row, : len(prompt)] = prompt
    for place, text in enumerate(texts):
      continuations[row, place, : len(text)] = text
      lengths[row, place] = len(text)
  read = prefix.read(
    plain.module,
    plain.params,
    tokens,
    np.array([len(prompt) for prompt in given], np.int32),
  )
  found = likelihood.log_likelihood(
    plain.module, plain.params, read, continuations, lengths
  )
  assert not found[:, -1].any()  # No text, no surprise.
  for row, prompt in enumerate(given):
    for place, text in enumerate(texts):
      whole = np.zeros((1, 64), np.int32)
      whole[0, : len(prompt) + len(text)] = [*prompt, *text]
      wanted = 0.0
      for depth, token in enumerate(text):
        logits = np.asarray(
          _logits_after(plain.module, plain.params, whole, len(prompt) + depth),
          np.float64,
        )
        wanted += logits[token] - np.log(np.sum(np.exp(logits)))
      np.testing.assert_allclose(found[row, place], wanted, rtol=1e-5)
