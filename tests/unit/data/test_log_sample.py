"""A sample of a log is the same from its cache and before there is one."""

import numpy as np
import pytest

from calrec_jax.data import building, log_sample
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.dataset import Dataset
from calrec_jax.data.log_sample import Size
from calrec_jax.data.vocabulary.trained import TrainedSentencePiece
from tests.fixtures import kinds_toys

ALL = Size(users=10**6, scores=10**9, least_users=1, events=10**9)
SOME = Size(users=7, scores=10**9, least_users=1, events=100)


def log(kinds):
  found = kinds_toys.rows()
  if kinds:
    return kinds_toys.Log(found)
  bought = tuple(row for row in found if row[2] == kinds_toys.PURCHASE)
  return kinds_toys.Log(bought, targets=None, with_kinds=False)


@pytest.mark.parametrize("kinds", [False, True])
@pytest.mark.parametrize("size", [ALL, SOME], ids=["all", "some"])
@pytest.mark.parametrize("split", ["leave_one_out", "global_temporal"])
def test_it_is_the_same_with_and_without_a_cache(tmp_path, kinds, size, split):
  domain = kinds_toys.domain(log(kinds), split=split)
  dataset = Dataset(
    domains=[domain],
    vocabulary=TrainedSentencePiece(size=300),
    data_dir=str(tmp_path),
  )
  work = building.Building(dataset, progress=False)
  before = work.sample(domain, "validation", size)
  assert dataset.missing(domain.name)
  cache = TokenCache.open(work.cache(domain))
  after = work.sample(domain, "validation", size)
  assert (before.name, before.users) == (
    "toys",
    cache.num_documents("validation"),
  )
  assert before.train_users == after.train_users == cache.num_documents("train")
  assert (after.name, after.users) == (before.name, before.users)
  assert before.texts == after.texts
  np.testing.assert_array_equal(before.counts, after.counts)
  for column in ("items", "offsets"):
    np.testing.assert_array_equal(
      getattr(before.events, column), getattr(after.events, column)
    )
  assert len(before.histories) == len(after.histories) > 0
  for one, other in zip(before.histories, after.histories, strict=True):
    assert (one.user_id, one.target) == (other.user_id, other.target)
    for column in ("items", "timestamps"):
      np.testing.assert_array_equal(
        getattr(one, column), getattr(other, column)
      )
    assert type(one.items) is type(other.items)
    for column in ("kinds", "settled") if kinds else ():
      np.testing.assert_array_equal(
        getattr(one.items, column), getattr(other.items, column)
      )
  if size is ALL:
    purchases = cache.purchases("train", every_kind=True)
    np.testing.assert_array_equal(before.events.items, purchases.items)
    np.testing.assert_array_equal(before.events.offsets, purchases.offsets)
  else:
    assert len(before.histories) == min(7, before.users)
    assert 0 < len(before.events.items) < 200


def test_large_catalogues_and_logs_are_sampled():
  size = Size(users=2000, scores=10**8, least_users=200, events=1000)
  assert size.users_of(1000) == 2000
  assert size.users_of(100_000) == 1000
  assert size.users_of(10**7) == 200
  assert len(size.train_rows(50, events=900)) == 50
  rows = size.train_rows(50, events=2000)
  assert len(rows) == 25
  assert (np.diff(rows) > 0).all()
  assert log_sample.Size(users=1, scores=1, least_users=1, events=1).seed == 0
