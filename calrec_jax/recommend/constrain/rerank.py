"""The first candidates of another recommender, reordered by the model.

The score is the model's own log-probability of an item's text after the
history: the exact likelihood, where matching words or comparing vectors only
approximates it. The history is read once for all candidates.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin
import numpy as np

from calrec_jax.errors import at_least, check, one_of
from calrec_jax.metrics.ranking import Ranking
from calrec_jax.recommend.by_prompt import in_batches
from calrec_jax.recommend.constrain.text_scores import SCORES, TextScorer
from calrec_jax.recommend.domain_model import DomainModel
from calrec_jax.recommend.prefix import read
from calrec_jax.recommend.prompts import TokenRows
from calrec_jax.recommend.protocol import (
  Listed,
  Recommender,
  Request,
  identities,
)


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Reranking:
  """How candidates are reordered.

  Attributes:
    candidates: Length of the other recommender's list.
    score: `sum`, the log-probability of the whole text, or `mean`, that over
      its tokens.
    rows: users in one program.
  """

  candidates: int = 32
  score: str = "sum"
  rows: int = 16

  def __post_init__(self):
    check(self, score=one_of(*SCORES), candidates=at_least(1), rows=at_least(1))


class Reranked(Recommender):
  """Orders the first candidates of another recommender by likelihood.

  Its list ends with them: `WithFallback` appends the other recommender's.
  """

  name = "reranked"

  def __init__(
    self,
    first: Recommender,
    model: DomainModel,
    *,
    settings: Reranking | None = None,
  ):
    """Takes the recommender of the candidates, and a model.

    Args:
      first: Recommender of the candidates.
      model: Model and catalogue.
      settings: How many candidates, and their score.
    """
    self.num_items = len(model.catalogue)
    self.settings = settings or Reranking()
    self._first, self._model = first, model
    self._text_scores = TextScorer(model)

  def describe(self) -> str:
    """One human-readable line: what ranks, and with which settings."""
    return (
      f"the first {self.settings.candidates} of {self._first.name}, by the "
      f"model's log-probability of their texts ({self.settings.score})"
    )

  def fingerprint(self) -> dict[str, Any]:
    """The identity of the recommender of the candidates."""
    return identities([self._first])

  def _rank(self, request: Request) -> dict[str, Ranking]:
    listed = self._first.recommend(
      request.histories, depth=self.settings.candidates, rules=request.rules
    )
    items = {
      rule: [row[row >= 0] for row in ranking.items]
      for rule, ranking in listed.items()
    }
    ids = self._model.texts.ids
    # Items with identical text are scored once.
    texts = [
      np.unique(ids[np.concatenate(rows)])
      for rows in zip(*items.values(), strict=True)
    ]
    scores = self._scores(request.histories, texts)
    return {
      rule: Listed(
        rows,
        [
          values[np.searchsorted(known, ids[own])]
          for own, known, values in zip(rows, texts, scores, strict=True)
        ],
      ).cut(request.excluded[rule], request.depth)
      for rule, rows in items.items()
    }

  def _scores(
    self, histories: Sequence[np.ndarray], texts: list[np.ndarray]
  ) -> list[np.ndarray]:
    """The score of each user's unique texts, in their order."""
    model = self._model

    def begin(batch: TokenRows) -> Any:
      return model.place((batch.tokens, batch.lengths))

    def finish(batch: TokenRows, placed: Any) -> list[np.ndarray]:
      own = [texts[index] for index in batch.indices]
      width = max(map(len, own))
      requested = np.full((len(batch.lengths), width), -1, np.int32)
      for row, found in enumerate(own):
        requested[row, : len(found)] = found
      prefix = read(model.decoder, model.params, *placed)
      scores = self._text_scores(prefix, requested, self.settings.score)
      return [scores[row, : len(found)] for row, found in enumerate(own)]

    return in_batches(
      model.history_prompts(histories),
      model.whole_rows(self.settings.rows),
      model.limits.smallest_length,
      begin,
      finish,
    )
