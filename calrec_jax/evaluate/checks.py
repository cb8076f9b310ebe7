"""Checks of what a recommender returned, before any of it is measured.

A list that holds an item twice, an excluded item or unsorted scores would be
measured without complaint and wrongly; it is refused with the place where it
goes wrong instead.
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
    name: the recommender, for the message.
    rankings: a ranking for each candidate rule, on the host.
    histories: catalogue rows of each user of the batch, oldest first.
    catalogue: the items.
    protocol: the `evaluator.Protocol`, for its depth.
    rules: the requested candidate rules.

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
  wanted = {
    "items": (users, depth),
    "scores": (users, depth),
    "tail_ties": (users,),
  }
  for field, shape in wanted.items():
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
    "has an empty place before a filled one": real[:, 1:] & ~real[:, :-1],
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
      place = int(np.argwhere(where)[0, 0])
      return f"{problem} (user {place} of the batch: {items[place, :5]}...)"
  return None


def _members(
  items: np.ndarray, excluded: np.ndarray, num_items: int
) -> np.ndarray:
  """Which places hold an excluded item, bool[B, depth]."""
  # Users and items in one number, so that one call compares all of them.
  first = np.arange(len(items), dtype=np.int64)[:, None] * num_items
  out = (first + excluded)[excluded >= 0]
  return (items >= 0) & np.isin(first + items, out)
