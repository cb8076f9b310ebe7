"""From ranked lists to one number per user.

Rankings are full: all candidates of the catalogue are ranked, none sampled.
Every metric is a function of the *expected rank* of the user's target, so that
a recommender which gives many items the same score gains nothing from the order
in which they are stored. Tested against loops over all items in
`tests/reference/test_metrics_reference.py`.
"""

import re

import numpy as np
from jaxtyping import Bool, Float, Int

from calrec_jax.errors import InputError
from calrec_jax.metrics.ranking import Ranking

RECALL_CUTOFFS = (1, 5, 10, 20, 50)
NDCG_CUTOFFS = (5, 10, 20)
METRICS = (
  *(f"recall@{cutoff}" for cutoff in RECALL_CUTOFFS),
  *(f"ndcg@{cutoff}" for cutoff in NDCG_CUTOFFS),
  "mrr",
  "recall@10_text",
)
_NAME = re.compile(r"(?:(recall|ndcg)@([1-9]\d*)|mrr)(_text)?")


def expected_ranks(
  ranking: Ranking, targets: Int[np.ndarray, " B"], horizon: int
) -> Float[np.ndarray, " B"]:
  """The rank of each user's target, expected when ties are broken at random.

  With `greater` candidates scored above the target and `equal` candidates
  scored like it (itself included), the rank is `1 + greater + (equal - 1) / 2`
  (McSherry & Najork, ECIR 2008). Ties that continue beyond the list count: the
  ranking says how many there are.

  A target that is not listed is a miss, and that is exact: the list has
  `2 * horizon` items, so an unlisted one that ties with the last belongs to a
  group that starts at some g >= 0 and has at least `2 * horizon - g + 1`
  members; its expected rank is at least `1 + g + (2 * horizon - g) / 2 >
  horizon`.

  Args:
    ranking: Lists of at least `2 * horizon` items, best first.
    targets: Catalogue row of each user's next item.
    horizon: Largest cutoff; ranks beyond it are misses.

  Returns:
    Ranks from 1, in halves; infinity for a miss.

  Raises:
    InputError: If the lists are too short for the horizon.
  """
  _check_depth(ranking, horizon)
  listed = np.asarray(ranking.items) == targets[:, None]
  return _first_ranks(ranking, listed, horizon)


def tie_spans(
  ranking: Ranking, targets: Int[np.ndarray, " B"]
) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, " B"]]:
  """The best and the worst rank of each target, by how its tie is broken.

  Args:
    ranking: Lists of any depth.
    targets: Catalogue row of each user's next item.

  Returns:
    First and last rank of the tie, from 1; infinity for a target that is not
    listed, of which neither is known.
  """
  listed = np.asarray(ranking.items) == targets[:, None]
  greater, equal = _above_and_tied(ranking, listed)
  found = listed.any(axis=1)
  first = np.where(found, greater + 1.0, np.inf)
  return first, np.where(found, greater + equal * 1.0, np.inf)


def hits_at_random(
  first: Float[np.ndarray, " U"], last: Float[np.ndarray, " U"], cutoff: int
) -> Float[np.ndarray, " U"]:
  """The chance of a hit at a cutoff if the tie were broken at random.

  Args:
    first: Best rank of each target, see `tie_spans`.
    last: Worst rank.
    cutoff: Number of listed items.

  Returns:
    0 or 1 where the tie does not matter; 0 for a target that is not listed.
  """
  known = np.isfinite(first)
  first, last = np.where(known, first, 1.0), np.where(known, last, 1.0)
  chance = np.clip((cutoff - first + 1) / (last - first + 1), 0.0, 1.0)
  return np.where(known, chance, 0.0)


def text_ranks(
  ranking: Ranking,
  targets: Int[np.ndarray, " B"],
  first_with_text: Int[np.ndarray, " N"],
  horizon: int,
) -> Float[np.ndarray, " B"]:
  """The expected rank of the first item that has the target's text.

  Any item with identical text counts, as in systems that compare strings. Among
  `equal` tied candidates of which `same` have the text, the first one is
  expected at `greater + (equal + 1) / (same + 1)`; with one such item this is
  the expected rank. Only the listed items of a tie that continues beyond the
  list are known, so the rank is then an upper bound and never flatters.

  Args:
    ranking: See `expected_ranks`, also for the result and errors.
    targets: Catalogue row of each user's next item.
    first_with_text: Smallest row with the same text, by row.
    horizon: Largest cutoff; ranks beyond it are misses.
  """
  _check_depth(ranking, horizon)
  items = np.asarray(ranking.items)
  groups = np.where(items >= 0, first_with_text[np.maximum(items, 0)], -1)
  same = groups == first_with_text[targets][:, None]
  return _first_ranks(ranking, same, horizon)


def user_values(
  names: tuple[str, ...],
  ranks: Float[np.ndarray, " U"],
  ranks_of_text: Float[np.ndarray, " U"],
) -> Float[np.ndarray, "U M"]:
  """Every metric of every user, columns in the order of `names`.

  Recall at k is 1 for a rank of at most k (with one target, recall is the hit
  rate). NDCG at k is `1 / log2(rank + 1)` for such a rank. MRR is `1 / rank`.
  Each is 0 for a miss. The suffix `_text` reads the rank of the text.

  Raises:
    InputError: If a metric does not exist.
  """
  columns = []
  for name in names:
    kind, cutoff, of_text = parse(name)
    rank = ranks_of_text if of_text else ranks
    hit = rank <= cutoff if cutoff else np.isfinite(rank)
    safe = np.where(hit, rank, 1.0)
    gain = {"recall": np.ones_like, "ndcg": ndcg, "mrr": np.reciprocal}[kind]
    columns.append(np.where(hit, gain(safe), 0.0))
  return np.stack(columns, axis=1).astype(np.float64)


def ndcg(ranks: Float[np.ndarray, " U"]) -> Float[np.ndarray, " U"]:
  """NDCG of one target at each rank, from 1: 1 / log2(rank + 1)."""
  return 1.0 / np.log2(ranks + 1.0)


def parse(name: str, binding: str = "metrics") -> tuple[str, int | None, bool]:
  """Splits a metric's name: kind, cutoff, and whether the text counts.

  Args:
    name: Name of the metric.
    binding: Setting that names it, for the message.

  Raises:
    InputError: If the metric does not exist.
  """
  match = _NAME.fullmatch(name)
  if not match:
    raise InputError(
      f"{binding} names {name!r}, which does not exist. Write recall@K, ndcg@K "
      "or mrr, with _text appended to let any item with the target's text "
      "count."
    )
  cutoff = int(match[2]) if match[2] else None
  return match[1] or "mrr", cutoff, bool(match[3])


def horizon_of(names: tuple[str, ...]) -> int:
  """The largest cutoff among metrics; 10 for MRR alone."""
  return max((parse(name)[1] or 10 for name in names), default=10)


def coverage(seen: Bool[np.ndarray, " N"]) -> float:
  """The fraction of the catalogue that is in at least one user's list."""
  return float(np.mean(seen))


def _first_ranks(
  ranking: Ranking, wanted: np.ndarray, horizon: int
) -> Float[np.ndarray, " B"]:
  """The expected rank of the first wanted item of each list."""
  greater, equal = _above_and_tied(ranking, wanted)
  same = (_tied(ranking, wanted) & wanted).sum(axis=1)
  ranks = greater + (equal + 1.0) / (same + 1.0)
  found = wanted.any(axis=1)
  return np.where(found & (ranks <= horizon), ranks, np.inf)


def _above_and_tied(
  ranking: Ranking, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Candidates above the first wanted item of each list, and tied with it."""
  items, scores = np.asarray(ranking.items), np.asarray(ranking.scores)
  real = items >= 0
  rows = np.arange(len(items))
  score = scores[rows, np.argmax(wanted, axis=1)]
  last = scores[rows, np.maximum(real.sum(axis=1) - 1, 0)]
  greater = (real & (scores > score[:, None])).sum(axis=1)
  equal = _tied(ranking, wanted).sum(axis=1) + np.where(
    score == last, np.asarray(ranking.tail_ties), 0
  )
  return greater, equal


def _tied(ranking: Ranking, wanted: np.ndarray) -> np.ndarray:
  """Which listed items are scored like the first wanted one, bool[B, depth]."""
  items, scores = np.asarray(ranking.items), np.asarray(ranking.scores)
  score = scores[np.arange(len(items)), np.argmax(wanted, axis=1)]
  return (items >= 0) & (scores == score[:, None])


def _check_depth(ranking: Ranking, horizon: int) -> None:
  depth = ranking.items.shape[1]
  if depth < 2 * horizon:
    raise InputError(
      f"Lists of {depth} items cannot give ranks up to {horizon}: call the "
      f"recommender with depth={2 * horizon}."
    )
