"""The unique texts of a catalogue, and lists of them as lists of items.

Items with the same text cannot be distinguished by their text, so a recommender
scores each unique text once, as one column, and the items share its score.
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
from calrec_jax.recommend.candidates import exclusions
from calrec_jax.recommend.dense.topk import NO_COLUMN, Best, VectorIndex


class UniqueTexts:
  """Which catalogue rows have identical texts.

  Attributes:
    columns: int32[N], the unique text of each row, as a column.
    first_rows: int32[M], the smallest row of each column; ascending.
    sizes: int32[M], number of rows of each column.
  """

  def __init__(self, twins: Int[np.ndarray, " N"]):
    """Takes, for each row, the smallest row with the same text."""
    first_rows, columns, sizes = np.unique(
      twins, return_inverse=True, return_counts=True
    )
    self.first_rows = first_rows.astype(np.int32)
    self.columns = columns.astype(np.int32)
    self.sizes = sizes.astype(np.int32)
    self._rows = np.argsort(columns, kind="stable").astype(np.int32)
    self._offsets = np.concatenate([[0], np.cumsum(sizes)])

  def __len__(self) -> int:
    return len(self.first_rows)

  def of(self, rows: Int[np.ndarray, "B E"]) -> Int[np.ndarray, "B E"]:
    """The columns of rows; -1 stays -1."""
    return np.where(rows >= 0, self.columns[rows], NO_COLUMN).astype(np.int32)

  def items(
    self, columns: Int[np.ndarray, " K"]
  ) -> tuple[np.ndarray, np.ndarray]:
    """The rows of columns, and the place of each row's column."""
    sizes = self.sizes[columns]
    places = np.repeat(np.arange(len(columns)), sizes)
    within = np.arange(len(places)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return self._rows[self._offsets[columns][places] + within], places


class BestTexts(NamedTuple):
  """Scores of B users, known of their best unique texts: see `Scores`.

  Attributes:
    best: Lists of at least `Request.reach` columns; `best.requested` holds the
      scores of `own`.
    own: int32[B, E] rows whose scores are known, right-padded with -1; they
      include all that any rule excludes.
    texts: Unique texts of the catalogue.
  """

  best: Best
  own: np.ndarray
  texts: UniqueTexts

  def cut(self, excluded: Int[np.ndarray, "B F"], depth: int) -> Ranking:
    """The ranking of items that follows from lists of columns, exactly."""
    best = self.best
    items, scores = [], []
    for user in range(len(self.own)):
      columns = best.columns[user][best.columns[user] >= 0]
      rows, places = self.texts.items(columns)
      items.append(rows)
      scores.append(best.scores[user][places])
    ranking = protocol.Listed(items, scores).cut(excluded, depth)
    for user in range(len(self.own)):
      self._add_ties_beyond(ranking, excluded[user], user)
    return ranking

  def _add_ties_beyond(
    self, ranking: Ranking, excluded: np.ndarray, user: int
  ) -> None:
    """Counts the candidates that tie with the end of the list of columns."""
    best, own = self.best, self.own[user]
    last = best.scores[user, -1]
    if ranking.scores[user, -1] != last or last == -np.inf:
      return  # The whole tie lies inside the list of columns.
    lost = (
      np.isin(own, excluded[excluded >= 0])
      & (best.requested[user] == last)
      & ~np.isin(self.texts.of(own[None])[0], best.columns[user])
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
    rows: Number of users that are searched for at once.
  """
  own = exclusions(request.histories, "not_seen")
  # Few shapes, so few compilations. An excluded item can take at most one
  # column out of a list.
  width = 1 << max(3, (own.shape[1] - 1).bit_length())
  wanted = 1 << (request.depth + width - 1).bit_length()
  parts = []
  for start in range(0, len(request.histories), rows):
    users = slice(start, start + rows)
    seen = np.full((rows, width), NO_COLUMN, np.int32)
    seen[: len(own[users]), : own.shape[1]] = texts.of(own[users])
    best = index.search(queries(users), seen, wanted)
    parts.append([np.asarray(field)[: len(own[users])] for field in best])
  if not parts:
    nothing = Best(*(np.zeros((0, 1), np.float32) for _ in Best._fields))
    return BestTexts(nothing, own, texts)
  columns, scores, ties, requested = map(
    np.concatenate, zip(*parts, strict=True)
  )
  best = Best(columns, scores, ties, requested[:, : own.shape[1]])
  return BestTexts(best, own, texts)
