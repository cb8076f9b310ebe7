"""Groups of users a mean hides: short histories, rare targets, repeats.

Every slicing assigns each user to one bucket from what is known before any
recommender runs: the history, the target, and the training counts.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import gin
import numpy as np
from jaxtyping import Int

from calrec_jax.data.records import Catalogue, History
from calrec_jax.errors import InputError

POPULARITY = ("head", "mid", "tail")


@dataclasses.dataclass(frozen=True, eq=False)
class Slicing:
  """One way to put every user into a bucket.

  Attributes:
    labels: Names of the buckets.
    codes: int[U], bucket of each user.
  """

  labels: tuple[str, ...]
  codes: np.ndarray


@gin.configurable
def slice_users(
  histories: Sequence[History],
  catalogue: Catalogue,
  history_lengths: Sequence[int] = (1, 5, 10, 20, 50),
) -> dict[str, Slicing]:
  """Puts every user into one bucket of each slicing.

  Args:
    histories: Users of a split.
    catalogue: Items, with their training counts.
    history_lengths: Shortest history of each bucket, ascending; an empty or
      shorter history falls into a bucket below the first.

  Returns:
    `history_length`; `target_popularity` (head, mid and tail of the training
    events, see `popularity_classes`); `target_training` (cold targets have no
    training event); `target_repeat` (whether the target is in the history).

  Raises:
    InputError: if the lengths do not ascend from at least 1.
  """
  targets = np.array([history.target for history in histories], np.int64)
  classes = popularity_classes(catalogue.train_counts)[targets]
  warm = catalogue.train_counts[targets] > 0
  novel = np.array([h.target not in h.items for h in histories], bool)
  return {
    "history_length": _by_length(histories, tuple(history_lengths)),
    "target_popularity": Slicing(POPULARITY, classes),
    "target_training": Slicing(("cold", "warm"), warm.astype(np.int64)),
    "target_repeat": Slicing(("repeat", "novel"), novel.astype(np.int64)),
  }


def popularity_classes(
  train_counts: Int[np.ndarray, " N"],
) -> Int[np.ndarray, " N"]:
  """Classes 0 (head), 1 (mid) and 2 (tail), each about a third of the events.

  An item's class follows from the fraction of training events that belongs to
  more popular items: less than a third is head, less than two thirds is mid.
  Items with equal counts share a class, and items without events are tail.
  """
  counts = np.asarray(train_counts, np.int64)
  total = int(counts.sum())
  if not total:
    return np.full(len(counts), 2, np.int64)
  ascending = np.sort(counts)
  up_to = np.concatenate([[0], np.cumsum(ascending)])
  above = total - up_to[np.searchsorted(ascending, counts, side="right")]
  # Integer arithmetic: a third of the events has no exact float.
  classes = (3 * above >= total).astype(np.int64) + (3 * above >= 2 * total)
  return np.where(counts > 0, classes, 2)


def _by_length(
  histories: Sequence[History], starts: tuple[int, ...]
) -> Slicing:
  if not starts or starts[0] < 1 or any(np.diff(starts) <= 0):
    raise InputError(
      f"slice_users.history_lengths is {starts}; give the shortest history of "
      "each bucket, ascending from 1"
    )
  names = [_range(low, high - 1) for low, high in itertools.pairwise(starts)]
  labels = (_range(0, starts[0] - 1), *names, f"{starts[-1]}+")
  lengths = np.array([len(history.items) for history in histories], np.int64)
  return Slicing(labels, np.searchsorted(starts, lengths, side="right"))


def _range(low: int, high: int) -> str:
  return str(low) if low == high else f"{low}-{high}"
