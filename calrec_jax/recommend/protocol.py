"""What every recommender answers, and how a list is cut from scores.

A recommender gets histories as rows of one catalogue and gives back lists,
best first, for each asked rule of candidates. Its heavy part (a model, a text
index) runs once; the rules only differ in what they leave out.

Tested against full sorts in `tests/unit/recommend/test_protocol.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from calrec_jax.errors import DivergedError, InputError
from calrec_jax.metrics.ranking import Ranking

RULES = ("all", "not_last", "not_seen")
"""Which items are candidates: all of the catalogue, all but the user's last
item, all but what the user ever had."""

EMPTY = -1  # Fills a list that has fewer candidates than places.


class Curve(NamedTuple):
  """What a recommender would have answered with other values of one setting.

  Attributes:
    setting: its name, for people: "samples".
    rankings: for each value of the setting, rising, a ranking for each asked
      rule, as `recommend` gives them. The value that `recommend` itself uses
      may be among them.
  """

  setting: str
  rankings: Mapping[int | float, Mapping[str, Ranking]]


@runtime_checkable
class Recommender(Protocol):
  """Anything that ranks the items of one catalogue for a user.

  Four further methods are optional; an evaluation calls those that exist.

  - `validity() -> {share: number or float[B]}` tells how sound the answers of
    the last call are: one number for each of its B users, or their mean. With
    one for each user the result does not depend on the batch size at all.
  - `explain(place) -> [{"text", "log_prob", "samples", "items"}]` gives the
    texts that were written for one user of the last call, JSON-ready.
  - `recommend_curve(histories, *, depth, rules) -> Curve` ranks with several
    values of a setting where one piece of work serves them all, as fewer of
    the samples that were drawn. It is called right after `recommend` with the
    same histories, and its time is not counted.
  - `fingerprint() -> mapping`, JSON-ready, tells what decides the answers
    beside the dataset, the checkpoint and the gin settings of
    `calrec_jax.recommend`, such as weights of its own. Answers kept on disk
    are used again only where it is equal.

  Attributes:
    name: short and unique within an evaluation; it becomes a key of the
      metrics file.
  """

  name: str

  def describe(self) -> str:
    """One line for people: what ranks, and with which settings."""
    ...

  def recommend(
    self,
    histories: Sequence[np.ndarray],
    *,
    depth: int,
    rules: Sequence[str] = ("not_last",),
  ) -> dict[str, Ranking]:
    """Ranks the catalogue for each history.

    Items with equal scores stand in the order of their rows.

    Args:
      histories: int32[n] catalogue rows of each user, oldest first.
      depth: places of each list, at least 1.
      rules: which candidates, out of `RULES`.

    Returns:
      One ranking for each rule.

    Raises:
      ValueError: for a row outside the catalogue, an unknown rule, or an
        empty history that this recommender has no answer for.
    """
    ...


def fingerprints(members: Sequence[Recommender]) -> dict[str, Any]:
  """The `fingerprint` of one that is made of others, by their names."""
  return {
    member.name: fingerprint()
    for member in members
    if (fingerprint := getattr(member, "fingerprint", None)) is not None
  }


def answers_of(recommender: Recommender) -> dict[str, Any]:
  """What a recommender says of itself, as part of what decides its answers."""
  tell = getattr(recommender, "fingerprint", None)
  return {
    "name": recommender.name,
    "description": recommender.describe(),
    "fingerprint": None if tell is None else tell(),
  }


def check_request(
  histories: Sequence[np.ndarray],
  depth: int,
  rules: Sequence[str],
  num_items: int,
  *,
  empty_allowed: bool = False,
) -> list[np.ndarray]:
  """Checks what a recommender was asked.

  Args:
    histories: catalogue rows of each user, oldest first.
    depth: places of each list.
    rules: names out of `RULES`.
    num_items: size of the catalogue.
    empty_allowed: whether a user without history can be answered.

  Returns:
    The histories as int32 arrays.

  Raises:
    ValueError: naming the user's place in the request and the remedy.
  """
  if depth < 1:
    raise ValueError(f"depth is {depth}; a list has at least one place.")
  for rule in rules:
    if rule not in RULES:
      raise InputError(
        f"Unknown rule of candidates {rule!r}; there are {', '.join(RULES)}."
      )
  checked = []
  for user, history in enumerate(histories):
    rows = np.asarray(history)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
      raise ValueError(
        f"History {user} is {rows.dtype}{list(rows.shape)}; it must be one "
        "line of catalogue rows."
      )
    if not rows.size and not empty_allowed:
      raise InputError(
        f"History {user} is empty. Leave such users out, or ask a recommender "
        "that needs no history, such as popularity."
      )
    outside = (rows < 0) | (rows >= num_items)
    if outside.any():
      raise InputError(
        f"History {user} holds row {rows[outside][0]}, but the catalogue has "
        f"rows 0..{num_items - 1}. Was it made with another catalogue?"
      )
    checked.append(rows.astype(np.int32))
  return checked


def exclusions(
  histories: Sequence[np.ndarray], rule: str
) -> Int[np.ndarray, "B E"]:
  """Rows that a rule takes out of each user's candidates.

  Args:
    histories: catalogue rows of each user, oldest first.
    rule: a name out of `RULES`.

  Returns:
    Distinct rows, rising, filled up with -1; E is what the longest needs.
  """
  if rule == "all":
    out = [np.empty(0, np.int32) for _ in histories]
  elif rule == "not_last":
    out = [np.asarray(history[-1:], np.int32) for history in histories]
  else:
    out = [np.unique(history).astype(np.int32) for history in histories]
  width = max(map(len, out), default=0)
  filled = np.full((len(out), width), EMPTY, np.int32)
  for user, rows in enumerate(out):
    filled[user, : len(rows)] = rows
  return filled


def top_items(
  scores: Float[np.ndarray, "B N"],
  excluded: Int[np.ndarray, "B E"],
  depth: int,
) -> Ranking:
  """Cuts the best items from the scores of a whole catalogue, exactly.

  Args:
    scores: one score for each catalogue row; -inf takes a row out.
    excluded: rows that are no candidates, filled up with -1.
    depth: places of each list.

  Raises:
    ValueError: if a score is not a number.
  """
  ranking = _blank(len(scores), depth)
  for user in range(len(scores)):
    row = scores[user].astype(np.float32)  # A copy: it is written to.
    row[excluded[user][excluded[user] >= 0]] = -np.inf
    if np.isnan(row).any():
      raise DivergedError(
        f"The scores of user {user} hold NaN; a model that has diverged "
        "cannot rank."
      )
    if depth < len(row):
      last = np.partition(row, len(row) - depth)[len(row) - depth]
      candidates = np.flatnonzero((row >= last) & (row > -np.inf))
    else:
      candidates = np.flatnonzero(row > -np.inf)
    _fill(ranking, user, candidates, row[candidates])
  return ranking


def top_listed(
  items: Sequence[np.ndarray],
  scores: Sequence[np.ndarray],
  excluded: Int[np.ndarray, "B E"],
  depth: int,
) -> Ranking:
  """Cuts the best from explicit candidates; no other item is ranked at all.

  Args:
    items: distinct rows of each user's candidates, in any order.
    scores: their scores.
    excluded: rows that are no candidates, filled up with -1.
    depth: places of each list.
  """
  ranking = _blank(len(items), depth)
  for user, (rows, values) in enumerate(zip(items, scores, strict=True)):
    keep = ~np.isin(rows, excluded[user])
    _fill(ranking, user, rows[keep], values[keep].astype(np.float32))
  return ranking


def rank_scores(
  scores: Float[np.ndarray, "B N"],
  histories: Sequence[np.ndarray],
  depth: int,
  rules: Sequence[str],
) -> dict[str, Ranking]:
  """One ranking for each rule from the scores of a whole catalogue."""
  return {
    rule: top_items(scores, exclusions(histories, rule), depth)
    for rule in rules
  }


def _blank(users: int, depth: int) -> Ranking:
  return Ranking(
    items=np.full((users, depth), EMPTY, np.int32),
    scores=np.full((users, depth), -np.inf, np.float32),
    tail_ties=np.zeros(users, np.int32),
  )


def _fill(
  ranking: Ranking, user: int, rows: np.ndarray, scores: np.ndarray
) -> None:
  """Writes one user's list; ties stand in the order of their rows."""
  depth = ranking.items.shape[1]
  order = np.lexsort((rows, -scores))
  listed, beyond = order[:depth], order[depth:]
  ranking.items[user, : len(listed)] = rows[listed]
  ranking.scores[user, : len(listed)] = scores[listed]
  if len(beyond):
    last = scores[listed[-1]]
    ranking.tail_ties[user] = np.count_nonzero(scores[beyond] == last)
