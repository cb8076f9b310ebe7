"""From generated texts to catalogue items: CALRec's quasi-round-robin.

Each distinct text k of a user, with log-probability s_k, is matched to every
item i by BM25; the scores of a text are scaled linearly to 0..1 and damped by
its probability, and an item keeps the best that any text gives it:

    r_i = max_k exp(ε s_k) (b_ki - min_i b_ki) / (max_i b_ki - min_i b_ki)

With a small ε the best matches of all texts come first, in the order of their
probability, then the second-best ones: nearly a round robin. The paper leaves
details open; each is a switch of `Grounding`.

An item that is not among the best matches of any text has a bound on its score.
Where enough items are above it, they are ranked without looking at any other;
else the whole catalogue is scored. The lists are the same to the last bit.
Tested against a loop over texts and items in
`tests/reference/test_ground_reference.py`, timed by `benchmarks/grounding.py`.
"""

import collections
import dataclasses
from collections.abc import Sequence

import gin
import numpy as np
from jaxtyping import Float

from calrec_jax.errors import at_least, check, one_of, optional
from calrec_jax.recommend.baselines.bm25 import BM25, CatalogueIndex
from calrec_jax.recommend.generate import match
from calrec_jax.recommend.generate.match import Matcher
from calrec_jax.recommend.generate.texts import GeneratedText
from calrec_jax.recommend.protocol import Listed

# Fewest best matches of a text that are remembered: enough for the lists of an
# evaluation, whose depth is not known when texts are matched ahead of it.
_FEWEST_SAVED = 512
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
    epsilon: ε above, the weight of a nat of log-probability; 1/5000 in the
      paper.
    score: s_k is the "sum" of a text's log-probabilities over its tokens, or
      their "mean". The sum is the log-probability of the text, the paper's
      term; a mean would prefer long texts.
    scaling: "min_max" as above; "max" divides by the best match only; "none"
      leaves BM25 as it is, and long texts outweigh short ones.
    combination: an item gets the "max" over the texts, or their "sum", which
      favours what many texts match a little over what one spells out.
    duplicates: "drop" uses a text once however often it was sampled, "count"
      multiplies its weight by the number of samples. Samples already follow the
      probability, which s_k holds, so "count" counts it twice.
    top_texts: Number of texts of highest s_k that are matched; None for all.
    exact_first: Whether a text that spells an item matches this item best,
      ahead of items that have the same words more often. The paper does not
      say so; the text's own item nearly always comes first anyway.
    bm25: Weights of words.
    cache_mebibytes: Memory for the matches of repeated texts; a tuned model
      writes the same texts for many users.
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

  def prepare(self, texts: Sequence[str]) -> None:
    """Matches texts ahead of their use, while a device writes more."""
    if self.settings.combination == "max":
      self._matcher.best(texts, _FEWEST_SAVED)
    else:
      self._matcher.rows(texts)

  def best_row(self, text: str) -> int:
    """The catalogue row a text is of: its own, else the best match."""
    if text in self.index.rows:
      return self.index.rows[text]
    [best] = self._matcher.best([text], _FEWEST_SAVED)
    if len(best.ids):
      found = best.ids[np.argmax(best.matches)]
    else:  # More items match it equally well than are remembered.
      found = np.argmax(self._matcher.rows([text])[0])
    return int(self.index.unique.first_rows[found])

  def scores(self, written: Sequence[GeneratedText]) -> Float[np.ndarray, " N"]:
    """Quasi-round-robin scores of one user for every catalogue row.

    Args:
      written: Generated texts of the user, which may repeat.

    Returns:
      Scores; from 0 to 1 with the default settings. Items with the same text
      have the same score.
    """
    return self._whole(*self._weigh(written))

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
    texts, weights = self._weigh(written)
    if self.settings.combination == "max" and texts:
      rows, scores = self._best(texts, weights, wanted)
      if len(rows) >= min(wanted, len(self.index)):
        return _cut(rows, scores, wanted)
    return _cut(np.arange(len(self.index)), self._whole(texts, weights), wanted)

  def _best(
    self, texts: list[str], weights: np.ndarray, wanted: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Rows that certainly score above all others, and their scores."""
    count = max(_FEWEST_SAVED, 2 << (wanted - 1).bit_length())
    found = self._matcher.best(texts, count)
    bound = np.float32(max(weights * [best.bound for best in found]))
    ids = np.concatenate([best.ids for best in found])
    sizes = [len(best.ids) for best in found]
    scores = np.repeat(weights, sizes) * np.concatenate(
      [best.matches for best in found]
    )
    scores = scores.astype(np.float32)
    ids, scores = ids[scores > bound], scores[scores > bound]
    order = np.lexsort((-scores, ids))
    ids, scores = ids[order], scores[order]
    first = np.diff(ids, prepend=-1) > 0  # The best match of each text.
    rows, positions = self.index.unique.items(ids[first])
    return rows, scores[first][positions]

  def _whole(
    self, texts: list[str], weights: np.ndarray
  ) -> Float[np.ndarray, " N"]:
    """Scores of every catalogue row."""
    if not texts:
      return np.zeros(len(self.index), np.float32)
    damped = weights[:, None] * self._matcher.rows(texts)
    combine = np.max if self.settings.combination == "max" else np.sum
    scores = combine(damped, axis=0)
    return scores.astype(np.float32)[self.index.ids]

  def _weigh(
    self, written: Sequence[GeneratedText]
  ) -> tuple[list[str], np.ndarray]:
    """The distinct texts that count, and their weights, float64[K]."""
    settings = self.settings
    best: dict[str, float] = {}
    counts: collections.Counter[str] = collections.Counter()
    for one in written:
      value = float(np.float32(one.log_prob))
      if settings.score == "mean":
        value /= max(one.tokens, 1)
      best[one.text] = max(best.get(one.text, -np.inf), value)
      counts[one.text] += one.samples
    chosen = sorted(best, key=lambda text: -best[text])[: settings.top_texts]
    weights = np.exp(settings.epsilon * np.array([best[t] for t in chosen]))
    if settings.duplicates == "count":
      weights = weights * np.array([counts[text] for text in chosen])
    return chosen, weights


def _cut(
  rows: np.ndarray, scores: np.ndarray, wanted: int
) -> tuple[np.ndarray, np.ndarray]:
  """All that score at least as high as the item at position `wanted`."""
  if wanted >= len(rows):
    return rows, scores
  least = np.partition(scores, len(scores) - wanted)[len(scores) - wanted]
  return rows[scores >= least], scores[scores >= least]
