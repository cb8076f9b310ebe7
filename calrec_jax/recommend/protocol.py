"""What every recommender does: the request is checked and the list cut here.

A recommender gets histories as rows of one catalogue and returns lists, best
first, one for each candidate rule of the request. It only scores: its heavy
part (a model, a text index) runs once, whatever the rules. A new recommender
derives from `Recommender` and implements `describe` and `_score`; one that
joins the lists of others implements `_rank`.

Tested against full sorts in `tests/unit/recommend/test_protocol.py`.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from calrec_jax.data.records import event_items
from calrec_jax.errors import DivergedError, InputError
from calrec_jax.metrics.ranking import Ranking
from calrec_jax.recommend import candidates
from calrec_jax.recommend.candidates import DEFAULT, EMPTY

_NO_ITEMS = np.zeros(0, np.int32)


class Request(NamedTuple):
  """A checked request for recommendations.

  Attributes:
    histories: int32[n] catalogue rows of each of B users, oldest first;
      `records.EventItems` where events have kinds.
    depth: Length of each list, at least 1.
    excluded: int32[B, E] rows that are no candidates, by candidate rule, in
      the order of the request; right-padded with -1.
  """

  histories: list[np.ndarray]
  depth: int
  excluded: dict[str, np.ndarray]

  @property
  def rules(self) -> tuple[str, ...]:
    """Names of the candidate rules."""
    return tuple(self.excluded)

  @property
  def reach(self) -> int:
    """Length of a list from which those of all rules can be cut."""
    widths = [rows.shape[1] for rows in self.excluded.values()]
    return self.depth + max(widths, default=0)


@runtime_checkable
class Scores(Protocol):
  """Scores of B users, from which the list of any candidate rule is cut."""

  def cut(self, excluded: Int[np.ndarray, "B E"], depth: int) -> Ranking:
    """The best `depth` candidates; equal scores by ascending row.

    Args:
      excluded: Rows that are no candidates, right-padded with -1.
      depth: Length of each list.
    """
    ...


class FullScores(NamedTuple):
  """Scores of a whole catalogue.

  Attributes:
    values: float[B, N], one score for each catalogue row; -inf takes a row out.
  """

  values: np.ndarray

  def cut(self, excluded: Int[np.ndarray, "B E"], depth: int) -> Ranking:
    """See `Scores`; exact.

    Raises:
      DivergedError: if a score is NaN.
    """
    ranking = _blank(len(self.values), depth)
    for user in range(len(self.values)):
      row = self.values[user].astype(np.float32)  # A copy: it is written to.
      row[excluded[user][excluded[user] >= 0]] = -np.inf
      if np.isnan(row).any():
        raise DivergedError(
          f"The scores of user {user} hold NaN; a model that has diverged "
          "cannot rank."
        )
      least = -np.inf
      if depth < len(row):
        least = np.partition(row, len(row) - depth)[len(row) - depth]
      rows = np.flatnonzero((row >= least) & (row > -np.inf))
      _fill(ranking, user, rows, row[rows])
    return ranking


class Listed(NamedTuple):
  """Scores of explicit candidates; no other item is ranked at all.

  Attributes:
    items: Distinct catalogue rows of each of B users, in any order.
    values: Their scores.
  """

  items: Sequence[np.ndarray]
  values: Sequence[np.ndarray]

  def cut(self, excluded: Int[np.ndarray, "B E"], depth: int) -> Ranking:
    """See `Scores`."""
    ranking = _blank(len(self.items), depth)
    for user, (rows, values) in enumerate(zip(*self, strict=True)):
      retained = ~np.isin(rows, excluded[user])
      _fill(ranking, user, rows[retained], values[retained].astype(np.float32))
    return ranking


class Curve(NamedTuple):
  """What a recommender would have returned with other values of a setting.

  Attributes:
    setting: Name of the setting, human-readable: "samples".
    rankings: Ranking by candidate rule, by value of the setting, ascending.
      The value that `recommend` itself uses may be among them.
  """

  setting: str
  rankings: Mapping[int | float, Mapping[str, Ranking]]


class Recommender(abc.ABC):
  """Ranks the items of one catalogue for a user.

  Attributes:
    name: Short name, unique within an evaluation; a key of the metrics file.
    num_items: Size of the catalogue, N.
    answers_empty: Whether a user without history can be answered.
    curve_setting: Name of the setting that `recommend_curve` varies, or None.
    version: Version of the code that decides the answers, see `identity`.
      Raise it when the same settings and data give other lists.
  """

  name: str
  num_items: int
  answers_empty: bool = False
  curve_setting: str | None = None
  version: int = 1

  @abc.abstractmethod
  def describe(self) -> str:
    """One human-readable line: what ranks, and with which settings."""

  def recommend(
    self,
    histories: Sequence[np.ndarray],
    *,
    depth: int,
    rules: Sequence[str] = (DEFAULT,),
  ) -> dict[str, Ranking]:
    """Ranks the catalogue for each history.

    Items with equal scores are listed by ascending catalogue row.

    Args:
      histories: int32[n] catalogue rows of each user, oldest first.
      depth: Length of each list, at least 1.
      rules: Candidate rules, out of `candidates.RULES`.

    Returns:
      A ranking for each rule.

    Raises:
      InputError: for a row outside the catalogue, an unknown rule, or an
        empty history where `answers_empty` is false.
    """
    request = check_request(
      histories, depth, rules, self.num_items, empty_allowed=self.answers_empty
    )
    return self._rank(request)

  def recommend_curve(
    self,
    histories: Sequence[np.ndarray],
    *,
    depth: int,
    rules: Sequence[str] = (DEFAULT,),
  ) -> Curve | None:
    """Ranks with several values of a setting that one piece of work serves.

    An evaluation calls it right after `recommend` with the same histories; its
    time is not counted.

    Args: as of `recommend`.

    Returns:
      None for a recommender without such a setting.
    """
    if self.curve_setting is None:
      return None
    request = check_request(histories, depth, rules, self.num_items)
    scores = self._score_curve(request)
    return Curve(
      self.curve_setting,
      {value: cut(scores[value], request) for value in sorted(scores)},
    )

  def validity(self) -> Mapping[str, float | np.ndarray | None]:
    """How sound the answers of the last call are, by name of a fraction.

    Returns:
      For each fraction a number for each of the B users, float[B], or their
      mean. With one for each user no result depends on the batch size.
    """
    return {}

  def explain(self, position: int) -> list[dict[str, Any]] | None:
    """What was written for one user of the last call, JSON-ready.

    Args:
      position: Index of the user in that call.

    Returns:
      Entries {"text", "log_prob", "samples", "items"}, the likeliest first;
      None for a recommender that writes no texts.
    """
    del position

  def fingerprint(self) -> dict[str, Any] | None:
    """What decides the answers beyond data, checkpoint and gin settings.

    Returns:
      JSON-ready, such as a digest of own parameters; None for nothing.
    """
    return None

  def details(self) -> Mapping[str, Any]:
    """What else the results of an evaluation say of the recommender.

    Returns:
      JSON-ready, such as the members of a fusion; a key must not be one of the
      numbers in `metrics.json`. Nothing that changes from call to call.
    """
    return {}

  def identity(self) -> dict[str, Any]:
    """What the recommender itself adds to the identity of saved answers."""
    return {
      "name": self.name,
      "version": self.version,
      "description": self.describe(),
      "fingerprint": self.fingerprint(),
    }

  def _score(self, request: Request) -> Scores:
    """Scores of each user, sufficient for all rules of the request."""
    raise NotImplementedError(f"{type(self).__name__}._score")

  def _score_curve(self, request: Request) -> Mapping[int | float, Scores]:
    """Scores by value of `curve_setting`."""
    raise NotImplementedError(f"{type(self).__name__}._score_curve")

  def _rank(self, request: Request) -> dict[str, Ranking]:
    """The list of each rule."""
    return cut(self._score(request), request)


def identities(members: Sequence[Recommender]) -> dict[str, Any]:
  """The `fingerprint` of a recommender made of others, by their names."""
  return {member.name: member.identity() for member in members}


def check_request(
  histories: Sequence[np.ndarray],
  depth: int,
  rules: Sequence[str],
  num_items: int,
  *,
  empty_allowed: bool = False,
) -> Request:
  """Checks a request.

  Args:
    histories: Catalogue rows of each user, oldest first.
    depth: Length of each list.
    rules: Names out of `candidates.RULES`.
    num_items: Size of the catalogue.
    empty_allowed: Whether a user without history can be answered.

  Raises:
    InputError: naming the index of the user in the request and the remedy.
  """
  if depth < 1:
    raise InputError(f"depth is {depth}; a list has at least one position.")
  for rule in rules:
    if rule not in candidates.RULES:
      raise InputError(
        f"unknown candidate rule {rule!r}; choose from "
        f"{', '.join(candidates.RULES)}."
      )
  checked = []
  for user, history in enumerate(histories):
    rows = np.asarray(history)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
      raise InputError(
        f"History {user} is {rows.dtype}{list(rows.shape)}; it must be one "
        "line of catalogue rows."
      )
    if not rows.size and not empty_allowed:
      raise InputError(
        f"History {user} is empty. Leave such users out, or use a recommender "
        "that needs no history, such as popularity."
      )
    outside = (rows < 0) | (rows >= num_items)
    if outside.any():
      raise InputError(
        f"History {user} holds row {rows[outside][0]}, but the catalogue has "
        f"rows 0..{num_items - 1}. Was it made with another catalogue?"
      )
    checked.append(event_items(history) if rows.size else _NO_ITEMS)
  excluded = {rule: candidates.exclusions(checked, rule) for rule in rules}
  return Request(checked, depth, excluded)


def cut(scores: Scores, request: Request) -> dict[str, Ranking]:
  """The list of each candidate rule."""
  return {
    rule: scores.cut(excluded, request.depth)
    for rule, excluded in request.excluded.items()
  }


def _blank(users: int, depth: int) -> Ranking:
  return Ranking(
    np.full((users, depth), EMPTY, np.int32),
    np.full((users, depth), -np.inf, np.float32),
    np.zeros(users, np.int32),
  )


def _fill(
  ranking: Ranking, user: int, rows: np.ndarray, scores: np.ndarray
) -> None:
  """Writes one user's list; ties are listed by ascending row."""
  depth = ranking.items.shape[1]
  order = np.lexsort((rows, -scores))
  listed, beyond = order[:depth], order[depth:]
  ranking.items[user, : len(listed)] = rows[listed]
  ranking.scores[user, : len(listed)] = scores[listed]
  if len(beyond):
    last = scores[listed[-1]]
    ranking.tail_ties[user] = np.count_nonzero(scores[beyond] == last)
