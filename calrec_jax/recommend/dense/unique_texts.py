"""The unique texts of a catalogue, and lists of them as lists of items.

Items with the same text cannot be distinguished by their text, so a recommender
scores each unique text once, by its id from 0, and the items share its score.
Tested against full sorts in `tests/reference/test_dense_reference.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from calrec_jax.metrics.ranking import Ranking
from calrec_jax.recommend import protocol
from calrec_jax.recommend.candidates import EMPTY, exclusions
from calrec_jax.recommend.dense.topk import Best, VectorIndex


class UniqueTexts:
  """Which catalogue rows have identical texts.

  Attributes:
    ids: int32[N], id of the unique text of each row.
    first_rows: int32[M], the smallest row of each text; ascending.
    sizes: int32[M], number of rows of each text.
  """

  def __init__(self, text_rows: Int[np.ndarray, " N"]):
    """Takes, for each row, the smallest row with the same text."""
    first_rows, ids, sizes = np.unique(
      text_rows, return_inverse=True, return_counts=True
    )
    self.first_rows = first_rows.astype(np.int32)
    self.ids, self.sizes = ids.astype(np.int32), sizes.astype(np.int32)
    self._rows = np.argsort(ids, kind="stable").astype(np.int32)
    self._offsets = np.concatenate([[0], np.cumsum(sizes)])

  def __len__(self) -> int:
    return len(self.first_rows)

  def of(self, rows: Int[np.ndarray, "B E"]) -> Int[np.ndarray, "B E"]:
    """The texts of rows; -1 stays -1."""
    return np.where(rows >= 0, self.ids[rows], EMPTY).astype(np.int32)

  def items(
    self, texts: Int[np.ndarray, " K"]
  ) -> tuple[np.ndarray, np.ndarray]:
    """The rows of texts, and each row's position among the texts."""
    sizes = self.sizes[texts]
    at = np.repeat(np.arange(len(texts)), sizes)
    within = np.arange(len(at)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return self._rows[self._offsets[texts][at] + within], at


class BestTexts(NamedTuple):
  """Scores of B users, known of their best unique texts: see `Scores`.

  Attributes:
    best: Lists of at least `Request.reach` texts; `best.requested` holds the
      scores of `own`.
    own: int32[B, E] rows whose scores are known, right-padded with -1; they
      include all that any rule excludes.
    texts: Unique texts of the catalogue.
  """

  best: Best
  own: np.ndarray
  texts: UniqueTexts

  def cut(self, excluded: Int[np.ndarray, "B F"], depth: int) -> Ranking:
    """The ranking of items that follows from lists of texts, exactly."""
    items, scores = [], []
    for found, values in zip(self.best.indices, self.best.scores, strict=True):
      rows, positions = self.texts.items(found[found >= 0])
      items.append(rows)
      scores.append(values[positions])
    ranking = protocol.Listed(items, scores).cut(excluded, depth)
    for user in range(len(self.own)):
      self._add_ties_beyond(ranking, excluded[user], user)
    return ranking

  def _add_ties_beyond(
    self, ranking: Ranking, excluded: np.ndarray, user: int
  ) -> None:
    """Counts the candidates that tie with the end of the list of texts."""
    best, own = self.best, self.own[user]
    last = best.scores[user, -1]
    if ranking.scores[user, -1] != last or last == -np.inf:
      return  # The whole tie lies inside the list of texts.
    lost = (
      np.isin(own, excluded[excluded >= 0])
      & (best.requested[user] == last)
      & ~np.isin(self.texts.of(own[None])[0], best.indices[user])
    )
    ranking.tail_ties[user] += best.ties[user] - np.count_nonzero(lost)


def search(
  index: VectorIndex,
  texts: UniqueTexts,
  request: protocol.Request,
  queries: Callable[[slice], jax.Array],
  rows: int,
) -> BestTexts:
  """The best unique texts of each user, enough of them for any rule.

  Args:
    index: Vectors of the texts.
    texts: Unique texts of the catalogue.
    request: Users, rules and length of the lists.
    queries: Gives the vectors of a slice of the users, right-padded to `rows`.
    rows: Number of users of one search.
  """
  own = exclusions(request.histories, "not_seen")
  # Few shapes, so few compilations. An excluded item can take at most one text
  # out of a list.
  width = 1 << max(3, (own.shape[1] - 1).bit_length())
  wanted = 1 << (request.depth + width - 1).bit_length()
  parts = []
  for start in range(0, len(request.histories), rows):
    users = slice(start, start + rows)
    seen = np.full((rows, width), EMPTY, np.int32)
    seen[: len(own[users]), : own.shape[1]] = texts.of(own[users])
    best = index.search(queries(users), seen, wanted)
    parts.append([np.asarray(field)[: len(own[users])] for field in best])
  if not parts:
    return BestTexts(Best(*[np.zeros((0, 1), np.int32)] * 4), own, texts)
  best = Best(*map(np.concatenate, zip(*parts, strict=True)))
  requested = best.requested[:, : own.shape[1]]
  return BestTexts(best._replace(requested=requested), own, texts)
