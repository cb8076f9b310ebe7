"""Splits read as one: each user once, and nothing forgotten."""

import pickle

import numpy as np
import pytest

from calrec_jax.data.cache import item_ids, joined_splits
from calrec_jax.data.cache.token_cache import CacheError
from calrec_jax.data.records import Purchases
from tests.fixtures import synthetic_caches

HISTORIES = ((0, 1, 2), (3, 4), (5, 6, 0, 1), (2,), (4, 4, 3))
VALIDATED, TESTED = (0, 2, 4), (1, 2)
KNOWN = "train+validation+test"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
  return synthetic_caches.write(
    tmp_path_factory.mktemp("shop"),
    histories=HISTORIES,
    validated=VALIDATED,
    tested=TESTED,
  )


def last_documents(splits):
  """A loop over the users: the last document that each has."""
  found = {}
  for user, history in enumerate(HISTORIES):
    items = list(history)
    if "validation" in splits and user in VALIDATED:
      items = [*history, 0]
    if "test" in splits and user in TESTED:
      items = [*history, 0, 1]
    found[f"user-{user}"] = items
  return found


@pytest.mark.parametrize("split", ["train+validation", KNOWN])
def test_every_user_has_the_last_document(shop, split):
  count = shop.num_documents(split)
  documents = shop.documents(split, range(count))
  assert count == len(HISTORIES)
  found = {user.user_id: user.items.tolist() for user in documents}
  assert found == last_documents(joined_splits.names(split))


def test_documents_come_in_the_requested_order(shop):
  whole = shop.documents(KNOWN, range(5))
  requested = [3, 0, 4, 3]
  for row, document in zip(
    requested, shop.documents(KNOWN, requested), strict=True
  ):
    assert document.user_id == whole[row].user_id
    np.testing.assert_array_equal(document.items, whole[row].items)
  assert shop.documents(KNOWN, []) == []
  assert shop.document(KNOWN, 2).user_id == whole[2].user_id


def test_lengths_are_those_of_the_documents(shop):
  for cache in (shop, *item_ids.by_item_ids([shop])):
    _, starts = cache.item_tokens
    tokens = np.diff(starts)
    lengths, offsets = cache.event_lengths(KNOWN)
    for row, document in enumerate(cache.documents(KNOWN, range(5))):
      np.testing.assert_array_equal(
        lengths[offsets[row] : offsets[row + 1]], tokens[document.items]
      )
    assert offsets[-1] == len(lengths)


def test_who_is_not_there_is_refused(shop):
  for row in (-1, 5):
    with pytest.raises(IndexError, match=r"within 0\.\.4"):
      shop.documents(KNOWN, [0, row])
  with pytest.raises(CacheError, match="no split 'tset'; it has test, train"):
    shop.num_documents("train+tset")


def test_it_travels_to_another_process(shop):
  again = pickle.loads(pickle.dumps(shop))
  assert again.document(KNOWN, 1).user_id == shop.document(KNOWN, 1).user_id


@pytest.mark.parametrize("seed", range(3))
def test_joining_by_a_loop(seed):
  numbers = np.random.default_rng(seed)
  users = [
    (name, [f"u{user}" for user in numbers.permutation(30)[:count]])
    for name, count in (("train", 25), ("validation", 10), ("test", 12))
  ]
  found = {}
  for part in joined_splits.join(users):
    ids = dict(users)[part.split]
    found.update({ids[row]: part.split for row in part.rows})
  assert found == {user: name for name, ids in users for user in ids}
  total = sum(len(part.rows) for part in joined_splits.join(users))
  assert total == len(found)


def test_purchases_of_the_training_split_are_the_catalogue_s(shop):
  bought = shop.purchases("train")
  np.testing.assert_array_equal(bought.counts(7), shop.catalogue.train_counts)
  np.testing.assert_allclose(
    bought.recent(7), shop.catalogue.train_recent, rtol=1e-12
  )


def test_purchases_by_a_loop(shop):
  counts, recent = np.zeros(9), np.zeros(9)
  for items in last_documents(("validation", "test")).values():
    for age, item in enumerate(reversed(items), start=1):
      counts[item] += 1
      recent[item] += 1 / age
  bought = shop.purchases(KNOWN)
  np.testing.assert_array_equal(bought.counts(9), counts)
  np.testing.assert_allclose(bought.recent(9), recent, rtol=1e-12)


def test_no_purchases_are_none():
  nothing = Purchases(np.zeros(0, np.int32), np.zeros(1, np.int64))
  assert not nothing.counts(3).any()
  assert not nothing.recent(3).any()
