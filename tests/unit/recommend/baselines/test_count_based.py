"""Recommenders that count: of each split its own purchases, read at need."""

import dataclasses

import numpy as np
import pytest

from calrec_jax.data.records import Purchases
from calrec_jax.recommend.baselines.baselines import Popularity
from calrec_jax.recommend.baselines.count_based import CountBased
from tests.fixtures import recommend_toys as toys

# Two users; what the training split lacks is the last purchase of each.
KNOWN = Purchases(np.array([0, 1, 2, 0, 1], np.int32), np.array([0, 3, 5]))
TRAINED = Purchases(np.array([0, 1, 0], np.int32), np.array([0, 2, 3]))
ASKED = [np.array([1], np.int32)]


@pytest.fixture
def read():
  """Gives the purchases of a split, and notes what it was asked for."""

  def purchases(split):
    purchases.asked.append(split)
    return {"train": TRAINED, "train+validation": KNOWN}[split]

  purchases.asked = []
  return purchases


def counted(split, read):
  catalogue = toys.catalogue()
  size = len(catalogue)
  catalogue = dataclasses.replace(
    catalogue,
    train_counts=TRAINED.counts(size),
    train_recent=TRAINED.recent(size),
  )
  # Dense stands for what its prior is given.
  return CountBased(split, catalogue, read, Popularity)


def scores(recommender):
  ranking = recommender.recommend(ASKED, depth=3, rules=("all",))["all"]
  kept = ranking.items[0] >= 0
  return dict(zip(ranking.items[0][kept], ranking.scores[0][kept], strict=True))


def test_the_training_split_is_counted_already(read):
  made = counted("train", read)
  assert scores(made.popularity)[0] == 2
  assert scores(made.dense) == pytest.approx({0: 1 / 2 + 1, 1: 1, 2: 0})
  assert not read.asked


def test_what_is_known_later_counts(read):
  made = counted("train+validation", read)
  assert scores(made.popularity) == {0: 2, 1: 2, 2: 1}
  assert scores(made.dense) == pytest.approx(
    {0: 1 / 3 + 1 / 2, 1: 1 / 2 + 1, 2: 1}
  )
  # Nobody had bought anything after item 1 in the training split.
  assert list(scores(made.sequential_rules)) == [2]
  assert not scores(counted("train", read).sequential_rules)


def test_purchases_are_read_once(read):
  made = counted("train+validation", read)
  for _ in range(2):
    assert made.popularity is made.popularity
    assert made.sequential_rules is made.sequential_rules
    assert made.dense is made.dense
  assert read.asked == ["train+validation"]
