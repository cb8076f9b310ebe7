"""From generated texts to catalogue items: CALRec's quasi-round-robin.

Each distinct text k of a user, with log-probability s_k, is matched to every
item i by BM25; the scores of a text are scaled linearly to 0..1 and damped by
its probability, and an item keeps the best that any text gives it:

    r_i = max_k exp(ε s_k) (b_ki - min_i b_ki) / (max_i b_ki - min_i b_ki)

With a small ε the best matches of all texts come first, in the order of their
probability, then the second-best ones: nearly a round robin. What is known of
the method leaves details open; each is a switch of `Grounding`.

An item that none of the texts matches among its best has a bound on its score.
Where enough items are above it, they are ranked without looking at any other;
else the whole catalogue is scored. The lists are the same to the last bit.
Tested against a loop over texts and items in
`tests/reference/test_ground_reference.py`, timed by `benchmarks/grounding.py`.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import gin
import numpy as np
from jaxtyping import Float

from calrec_jax.errors import at_least, check, one_of, optional
from calrec_jax.recommend.baselines.bm25 import BM25, CatalogueIndex
from calrec_jax.recommend.dense.unique_texts import UniqueTexts
from calrec_jax.recommend.generate import match
from calrec_jax.recommend.generate.match import Matcher
from calrec_jax.recommend.generate.texts import GeneratedText
from calrec_jax.recommend.protocol import Listed

# Best matches of a text that are remembered, at least: enough for the lists of
# an evaluation, whose depth is not known when texts are matched ahead of it.
_FEWEST_KEPT = 512
_CHOICES = {
  "score": ("sum", "mean"),
  "scaling": match.SCALINGS,
  "combination": ("max", "sum"),
  "duplicates": ("drop", "count"),
}


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Grounding:
  """How generated texts are matched to items.

  Attributes:
    epsilon: ε above, how much a nat of log-probability counts; the paper's
      value is 1/5000.
    score: s_k is the "sum" of a text's log-probabilities over its tokens, or
      their "mean". The sum is the log-probability of the text, the word that
      is used of the method; a mean would prefer long texts.
    scaling: "min_max" as above; "max" divides by the best match only; "none"
      leaves BM25 as it is, and long texts outweigh short ones.
    combination: an item gets the "max" over the texts, or their "sum", which
      favours what many texts match a little over what one spells out.
    duplicates: "drop" takes a text once however often it was sampled, "count"
      multiplies its damping by the number of samples. Samples follow
      the probability already, which s_k holds: counting says it twice.
    top_texts: only so many texts of highest s_k are matched; None for all.
      Every text was paid for, and an unlikely one hardly gets in the way.
    exact_first: whether a text that spells an item matches this item best,
      ahead of items that have the same words more often. Off, as BM25 alone is
      what is known; the text's own item nearly always comes first anyway.
    bm25: how words are weighed.
    cache_mebibytes: memory for the matches of texts that come again; a tuned
      model writes the same texts for many users.
  """

  epsilon: float = 1 / 5000
  score: str = "sum"
  scaling: str = "min_max"
  combination: str = "max"
  duplicates: str = "drop"
  top_texts: int | None = None
  exact_first: bool = False
  bm25: BM25 = dataclasses.field(default_factory=BM25)
  cache_mebibytes: int = 256

  def __post_init__(self):
    """Refuses what grounds nothing."""
    check(
      self,
      # Below 0 the least likely texts would come first.
      epsilon=at_least(0),
      top_texts=optional(at_least(1)),
      cache_mebibytes=at_least(1),
      **{name: one_of(*choices) for name, choices in _CHOICES.items()},
    )

  def describe(self) -> str:
    """The switches that are not as by default, human-readable; may be empty."""
    parts = [
      f"{field.name} {getattr(self, field.name)}"
      for field in dataclasses.fields(self)
      if field.name not in ("epsilon", "bm25", "cache_mebibytes")
      and getattr(self, field.name) != field.default
    ]
    return ", ".join(parts)


class _Weighted(NamedTuple):
  """Distinct texts of a user, and what multiplies their matches."""

  texts: list[str]
  weights: np.ndarray


class Grounder:
  """Matches generated texts to the items of one catalogue.

  Threads may share it.
  """

  def __init__(self, index: CatalogueIndex, settings: Grounding | None = None):
    """Takes the index; several recommenders may share one."""
    self.settings = settings or Grounding()
    self.index = index
    self._matcher = Matcher(
      index,
      scaling=self.settings.scaling,
      exact_first=self.settings.exact_first,
      cache_mebibytes=self.settings.cache_mebibytes,
    )
    _, first, column = np.unique(
      index.columns, return_index=True, return_inverse=True
    )
    self._columns = UniqueTexts(first[column])

  def matches(self, texts: Sequence[str]) -> Float[np.ndarray, "K M"]:
    """Match of each text with each distinct item text, see `Matcher.rows`."""
    return self._matcher.rows(texts)

  def prepare(self, texts: Sequence[str]) -> None:
    """Matches texts ahead of their use, while a device writes more."""
    if self.settings.combination == "max":
      self._matcher.best(texts, _FEWEST_KEPT)
    else:
      self._matcher.rows(texts)

  def best_row(self, text: str) -> int:
    """The catalogue row a text is of: its own, else the best match."""
    if text in self.index.rows:
      return self.index.rows[text]
    [best] = self._matcher.best([text], _FEWEST_KEPT)
    if len(best.columns):
      column = best.columns[np.argmax(best.matches)]
    else:  # More items match it equally well than are remembered.
      column = np.argmax(self.matches([text])[0])
    return int(self._columns.first_rows[column])

  def scores(
    self,
    texts: Sequence[str],
    log_probs: Float[np.ndarray, " K"],
    *,
    tokens: Sequence[int] | None = None,
    samples: Sequence[int] | None = None,
  ) -> Float[np.ndarray, " N"]:
    """Quasi-round-robin scores of one user for every catalogue row.

    Args:
      texts: what was generated for the user, may repeat.
      log_probs: log-probability of each text, in nats.
      tokens: length of each, for `Grounding.score` = "mean".
      samples: how many samples spell each, 1 if not given; counts where
        `Grounding.duplicates` is "count".

    Returns:
      Scores; from 0 to 1 with the default settings. Items with the same text
      have the same score.

    Raises:
      ValueError: if lengths are needed and not given.
    """
    return self._whole(self._weigh(texts, log_probs, tokens, samples))

  def rank(
    self, written: Sequence[Sequence[GeneratedText]], reach: int
  ) -> Listed:
    """The best items of users, by their `scores`.

    Args:
      written: Distinct texts of each user.
      reach: Number of items that are certainly among the result, with all
        that tie with the last of them.
    """
    found = [self._candidates(texts, reach) for texts in written]
    return Listed([rows for rows, _ in found], [values for _, values in found])

  def _candidates(
    self, written: Sequence[GeneratedText], wanted: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores of the best `wanted` items, with all their ties."""
    weighted = self._weigh(
      [text.text for text in written],
      np.array([text.log_prob for text in written], np.float32),
      [text.tokens for text in written]
      if self.settings.score == "mean"
      else None,
      [text.samples for text in written],
    )
    if self.settings.combination == "max" and weighted.texts:
      rows, scores = self._best(weighted, wanted)
      if len(rows) >= min(wanted, len(self.index)):
        return _cut(rows, scores, wanted)
    return _cut(np.arange(len(self.index)), self._whole(weighted), wanted)

  def _best(
    self, weighted: _Weighted, wanted: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Rows that certainly score above all others, and their scores."""
    count = max(_FEWEST_KEPT, 2 << (wanted - 1).bit_length())
    found = self._matcher.best(weighted.texts, count)
    bound = np.float32(
      max(
        weight * best.bound
        for weight, best in zip(weighted.weights, found, strict=True)
      )
    )
    columns = np.concatenate([best.columns for best in found])
    sizes = [len(best.columns) for best in found]
    scores = np.repeat(weighted.weights, sizes) * np.concatenate(
      [best.matches for best in found]
    )
    scores = scores.astype(np.float32)
    columns, scores = columns[scores > bound], scores[scores > bound]
    order = np.lexsort((-scores, columns))
    columns, scores = columns[order], scores[order]
    first = np.diff(columns, prepend=-1) > 0  # Each column's best.
    rows, places = self._columns.items(columns[first])
    return rows, scores[first][places]

  def _whole(self, weighted: _Weighted) -> Float[np.ndarray, " N"]:
    """Scores of every catalogue row."""
    if not weighted.texts:
      return np.zeros(len(self.index), np.float32)
    damped = weighted.weights[:, None] * self.matches(weighted.texts)
    if self.settings.combination == "max":
      scores = damped.max(axis=0)
    else:
      scores = damped.sum(axis=0)
    return scores.astype(np.float32)[self.index.columns]

  def _weigh(
    self,
    texts: Sequence[str],
    log_probs: np.ndarray,
    tokens: Sequence[int] | None,
    samples: Sequence[int] | None,
  ) -> _Weighted:
    """The distinct texts that count, and their weights, float64[K]."""
    settings = self.settings
    values = np.asarray(log_probs, np.float64)
    if settings.score == "mean":
      if tokens is None:
        raise ValueError(
          "Grounding.score = 'mean' needs the number of tokens of each text."
        )
      values = values / np.maximum(np.asarray(tokens, np.float64), 1)
    best: dict[str, float] = {}
    counts: dict[str, int] = {}
    for place, text in enumerate(texts):
      best[text] = max(best.get(text, -np.inf), float(values[place]))
      number = 1 if samples is None else samples[place]
      counts[text] = counts.get(text, 0) + number
    chosen = sorted(best, key=lambda text: -best[text])[: settings.top_texts]
    weights = np.exp(settings.epsilon * np.array([best[t] for t in chosen]))
    if settings.duplicates == "count":
      weights = weights * np.array([counts[text] for text in chosen])
    return _Weighted(chosen, weights)


def quasi_round_robin(
  texts: Sequence[str],
  log_probs: Float[np.ndarray, " K"],
  index: CatalogueIndex,
  epsilon: float = 1 / 5000,
) -> Float[np.ndarray, " N"]:
  """Scores of every catalogue row for one user's generated texts."""
  grounder = Grounder(index, Grounding(epsilon=epsilon))
  return grounder.scores(texts, log_probs)


def _cut(
  rows: np.ndarray, scores: np.ndarray, wanted: int
) -> tuple[np.ndarray, np.ndarray]:
  """What scores at least as the one in place `wanted`."""
  if wanted >= len(rows):
    return rows, scores
  least = np.partition(scores, len(scores) - wanted)[len(scores) - wanted]
  return rows[scores >= least], scores[scores >= least]
