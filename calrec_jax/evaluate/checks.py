"""Checks of what a recommender returned, before any of it is measured.

A list that holds an item twice, an excluded item or unsorted scores would be
measured without complaint and wrongly; it is refused instead, with the user
where it goes wrong.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calrec_jax.data.records import Catalogue
from calrec_jax.metrics.ranking import Ranking
from calrec_jax.recommend.candidates import exclusions


def check(
  name: str,
  rankings: Mapping[str, Ranking],
  histories: Sequence[np.ndarray],
  catalogue: Catalogue,
  protocol: Any,
  rules: Sequence[str],
) -> None:
  """Refuses rankings that would be measured wrongly.

  Args:
    name: Name of the recommender, for the message.
    rankings: Ranking of each candidate rule, on the host.
    histories: Catalogue rows of each user of the batch, oldest first.
    catalogue: Items of the domain.
    protocol: The `evaluator.Protocol`, for its depth.
    rules: Requested candidate rules.

  Raises:
    ValueError: if a rule is missing, or a list is misshapen, unsorted, holds
      an item twice, an unknown one, or one the rule excludes.
  """
  for rule in rules:
    problem = "is missing"
    if rule in rankings:
      problem = _misshapen(
        rankings[rule], len(histories), protocol.depth
      ) or _wrong(rankings[rule], exclusions(histories, rule), len(catalogue))
    if problem:
      raise ValueError(
        f"recommender {name!r}: the ranking for candidates {rule!r} {problem}"
      )


def _misshapen(ranking: Ranking, users: int, depth: int) -> str | None:
  lists = users, depth
  shapes = {"items": lists, "scores": lists, "tail_ties": (users,)}
  for field, shape in shapes.items():
    found = getattr(ranking, field).shape
    if found != shape:
      return f"has {field} of shape {found}, not {shape}"
  return None


def _wrong(
  ranking: Ranking, excluded: np.ndarray, num_items: int
) -> str | None:
  items, scores, tail_ties = ranking
  real = items >= 0
  ordered = np.sort(items, axis=1)
  repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
  both = real[:, 1:] & real[:, :-1]
  tests = {
    f"lists rows beyond the {num_items} items": items >= num_items,
    "has an empty position before a filled one": real[:, 1:] & ~real[:, :-1],
    "has scores that are not numbers": real & np.isnan(scores),
    "is not sorted, best first": both & (scores[:, 1:] > scores[:, :-1]),
    "lists an item twice": repeated,
    "counts ties beyond a list that is not full": (
      (tail_ties != 0) & ~real[:, -1] | (tail_ties < 0)
    ),
    "lists an item that the rule excludes": _members(
      items, excluded, num_items
    ),
  }
  for problem, where in tests.items():
    if where.any():
      user = int(np.argwhere(where)[0, 0])
      return f"{problem} (user {user} of the batch: {items[user, :5]}...)"
  return None


def _members(
  items: np.ndarray, excluded: np.ndarray, num_items: int
) -> np.ndarray:
  """Which positions hold an excluded item, bool[B, depth]."""
  # Users and items in one number, so that one call compares all of them.
  first = np.arange(len(items), dtype=np.int64)[:, None] * num_items
  out = (first + excluded)[excluded >= 0]
  return (items >= 0) & np.isin(first + items, out)
