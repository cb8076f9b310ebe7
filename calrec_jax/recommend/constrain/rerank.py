"""The first candidates of another recommender, ordered anew by the model.

The score is the model's own log-probability of an item's text after the
history: the exact likelihood, where matching words or comparing vectors only
approximates it. The history is read once for all candidates.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin
import numpy as np
from jax.sharding import Mesh

from calrec_jax.data.records import Catalogue, PromptTokens
from calrec_jax.errors import at_least, check, one_of
from calrec_jax.metrics.ranking import Ranking
from calrec_jax.recommend import protocol
from calrec_jax.recommend.constrain.text_scores import SCORES, TextScorer
from calrec_jax.recommend.constrain.trie import Texts
from calrec_jax.recommend.dense.unique_texts import TextColumns
from calrec_jax.recommend.prefix import read
from calrec_jax.recommend.prompts import PromptLimits, PromptWriter, token_rows
from calrec_jax.recommend.protocol import Recommender
from calrec_jax.runtime import placement


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Reranking:
  """How candidates are ordered anew.

  Attributes:
    candidates: places of the other recommender's list that are.
    score: `sum`, the log-probability of the whole text, or `mean`, that over
      its tokens.
    rows: users in one program.
  """

  candidates: int = 32
  score: str = "sum"
  rows: int = 16

  def __post_init__(self):
    """Refuses settings without candidates."""
    check(self, score=one_of(*SCORES), candidates=at_least(1), rows=at_least(1))


class Reranked:
  """Orders the first candidates of another recommender by likelihood.

  Its list ends with them: `Padded` goes on with the other recommender's.
  """

  def __init__(
    self,
    first: Recommender,
    decoder: Any,
    params: Any,
    catalogue: Catalogue,
    prompt: PromptTokens,
    *,
    settings: Reranking | None = None,
    limits: PromptLimits | None = None,
    mesh: Mesh | None = None,
    name: str = "reranked",
  ):
    """Takes the recommender of the candidates, and a model.

    Args:
      first: recommends the candidates.
      decoder: the module of the model.
      params: its parameters.
      catalogue: the items.
      prompt: pieces of the prompt, as in training.
      settings: how many candidates, and their score.
      limits: how much of a history is read.
      mesh: where rows are spread; by default the mesh that is set, if any.
      name: key in the metrics file.
    """
    self.name = name
    self.settings = settings or Reranking()
    self._first = first
    self._decoder, self._params = decoder, params
    self._mesh = placement.mesh_in_use(mesh)
    self._prompts = PromptWriter(catalogue, prompt, limits)
    self._columns = TextColumns(catalogue.twins)
    texts = Texts(catalogue.values, catalogue.offsets)
    self._score = TextScorer(
      decoder, params, texts.take(self._columns.first_rows), self._mesh
    )

  def describe(self) -> str:
    """One line for people: what ranks, and with which settings."""
    return (
      f"the first {self.settings.candidates} of {self._first.name}, by the "
      f"model's log-probability of their texts ({self.settings.score})"
    )

  def recommend(
    self,
    histories: Sequence[np.ndarray],
    *,
    depth: int,
    rules: Sequence[str] = ("not_last",),
  ) -> dict[str, Ranking]:
    """Ranks the candidates of each rule; see `protocol.Recommender`."""
    histories = protocol.check_request(
      histories, depth, rules, len(self._columns.columns)
    )
    listed = self._first.recommend(
      histories, depth=self.settings.candidates, rules=rules
    )
    candidates = [
      np.unique(np.concatenate([listed[rule].items[user] for rule in rules]))
      for user in range(len(histories))
    ]
    # Items of one text are scored once.
    columns = [
      np.unique(self._columns.columns[rows[rows >= 0]]) for rows in candidates
    ]
    scores = self._scores(histories, columns)
    return {
      rule: self._ranked(listed[rule], columns, scores, histories, rule, depth)
      for rule in rules
    }

  def _ranked(
    self,
    listed: Ranking,
    columns: list[np.ndarray],
    scores: list[np.ndarray],
    histories: Sequence[np.ndarray],
    rule: str,
    depth: int,
  ) -> Ranking:
    items, values = [], []
    for user, row in enumerate(listed.items):
      kept = row[row >= 0]
      place = np.searchsorted(columns[user], self._columns.columns[kept])
      items.append(kept)
      values.append(scores[user][place])
    return protocol.top_listed(
      items, values, protocol.exclusions(histories, rule), depth
    )

  def _scores(
    self, histories: Sequence[np.ndarray], columns: list[np.ndarray]
  ) -> list[np.ndarray]:
    """The score of each user's columns, in their order."""
    prompts = [self._prompts.user(history) for history in histories]
    found: list[np.ndarray] = [np.zeros(0, np.float32)] * len(prompts)
    rows = placement.whole_rows(self.settings.rows, self._mesh)
    for batch in token_rows(
      prompts, rows, self._prompts.limits.smallest_length
    ):
      width = max(len(columns[place]) for place in batch.places)
      asked = np.full((len(batch.lengths), width), -1, np.int32)
      for row, place in enumerate(batch.places):
        asked[row, : len(columns[place])] = columns[place]
      prefix = read(
        self._decoder,
        self._params,
        *placement.place((batch.tokens, batch.lengths), self._mesh),
      )
      scores = self._score(prefix, asked, self.settings.score)
      for row, place in enumerate(batch.places):
        found[place] = scores[row, : len(columns[place])]
    return found
