"""Recommenders that count: of each split its own purchases, read at need."""

import dataclasses

import numpy as np
import pytest

from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.records import Purchases
from calrec_jax.recommend import registry
from calrec_jax.recommend.baselines.baselines import Popularity
from calrec_jax.recommend.prompts import PromptLimits
from tests.fixtures import recommend_toys as toys

# Two users; the training split is without the last purchase of each.
KNOWN = Purchases(np.array([0, 1, 2, 0, 1], np.int32), np.array([0, 3, 5]))
TRAINED = Purchases(np.array([0, 1, 0], np.int32), np.array([0, 2, 3]))
HISTORIES = [np.array([1], np.int32)]


@pytest.fixture
def read():
  """Gives the purchases of a split, and notes which were read."""

  def purchases(split):
    purchases.read.append(split)
    return {"train": TRAINED, "train+validation": KNOWN}[split]

  purchases.read = []
  return purchases


def counted(split, read):
  """Makes recommenders by name; dense is replaced by the input of its prior."""
  catalogue = toys.catalogue()
  size = len(catalogue)
  catalogue = dataclasses.replace(
    catalogue,
    train_counts=TRAINED.counts(size),
    train_recent=TRAINED.recent(size),
  )
  cache = toys.stand_in(
    TokenCache,
    catalogue=catalogue,
    purchases=read,
    targets_differ=False,
    name="shop",
  )
  factory = registry.RecommenderFactory(
    cache, None, PromptLimits(max_tokens=64), toys.mesh(), counted=split
  )
  factory._dense = Popularity
  return lambda name: factory.make([name])[0]


def scores(recommender):
  ranking = recommender.recommend(HISTORIES, depth=3, rules=("all",))["all"]
  real = ranking.items[0] >= 0
  return dict(zip(ranking.items[0][real], ranking.scores[0][real], strict=True))


def test_the_training_split_is_counted_already(read):
  made = counted("train", read)
  assert scores(made("popularity"))[0] == 2
  assert scores(made("dense")) == pytest.approx({0: 1 / 2 + 1, 1: 1, 2: 0})
  assert not read.read


def test_what_is_known_later_counts(read):
  made = counted("train+validation", read)
  assert scores(made("popularity")) == {0: 2, 1: 2, 2: 1}
  assert scores(made("dense")) == pytest.approx(
    {0: 1 / 3 + 1 / 2, 1: 1 / 2 + 1, 2: 1}
  )
  # No user had bought anything after item 1 in the training split.
  assert list(scores(made("sequential_rules"))) == [2]
  assert not scores(counted("train", read)("sequential_rules"))


def test_purchases_are_read_once(read):
  made = counted("train+validation", read)
  for _ in range(2):
    assert made("popularity") is made("popularity")
    assert made("sequential_rules") is made("sequential_rules")
    assert made("dense") is made("dense")
  assert read.read == ["train+validation"]
