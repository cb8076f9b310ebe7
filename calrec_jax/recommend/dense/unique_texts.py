"""Distinct item texts as columns, and lists of columns as lists of items.

Items with the same text cannot be told apart by their text, so a recommender
scores each distinct text once, as one column, and the items share its score.
Tested against full sorts in `tests/reference/test_dense_reference.py`.
"""

import numpy as np
from jaxtyping import Int

from calrec_jax.metrics.ranking import Ranking
from calrec_jax.recommend import protocol
from calrec_jax.recommend.dense.topk import NO_COLUMN, Best


class TextColumns:
  """Which catalogue rows share a text.

  Attributes:
    columns: int32[N], the column of each row.
    first_rows: int32[M], the smallest row of each column; rising.
    sizes: int32[M], rows of each column.
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

  def cut(
    self,
    best: Best,
    own: Int[np.ndarray, "B E"],
    excluded: Int[np.ndarray, "B F"],
    depth: int,
  ) -> Ranking:
    """The ranking of items that follows from lists of columns, exactly.

    Args:
      best: lists of at least `depth` columns plus one for each excluded row;
        `best.asked` holds the scores of `own`.
      own: rows whose scores are known, -1 filled; it holds all excluded ones.
      excluded: rows that are no candidates, -1 filled, of each user.
      depth: places of each list.
    """
    items, scores = [], []
    for user in range(len(own)):
      columns = best.columns[user][best.columns[user] >= 0]
      rows, places = self.items(columns)
      items.append(rows)
      scores.append(best.scores[user][places])
    ranking = protocol.top_listed(items, scores, excluded, depth)
    for user in range(len(own)):
      self._add_ties_beyond(ranking, best, own, excluded[user], user)
    return ranking

  def _add_ties_beyond(
    self,
    ranking: Ranking,
    best: Best,
    own: Int[np.ndarray, "B E"],
    excluded: np.ndarray,
    user: int,
  ) -> None:
    """Counts the candidates that tie with the end of the list of columns."""
    last = best.scores[user, -1]
    if ranking.scores[user, -1] != last or last == -np.inf:
      return  # The whole tie lies inside the list of columns.
    lost = (
      np.isin(own[user], excluded[excluded >= 0])
      & (best.asked[user] == last)
      & ~np.isin(self.of(own[user][None])[0], best.columns[user])
    )
    ranking.tail_ties[user] += best.ties[user] - np.count_nonzero(lost)
