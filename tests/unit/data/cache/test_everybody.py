"""All events of all users, beside the splits of a cache."""

import hashlib
import os

import numpy as np
import pytest

from calrec_jax.data import building
from calrec_jax.data.cache import everybody as everybody_lib
from calrec_jax.data.cache.files import CacheError
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.dataset import Dataset
from calrec_jax.data.vocabulary.trained import TrainedSentencePiece
from tests.fixtures import kinds_toys, small_logs

TEMPORAL = {
  "split": "global_temporal",
  "validation_start": "2023-11-20",
  "test_start": "2023-11-22",
}
# Six users of the core buy three items in turn, one of them late.
CORE = [(f"u{user}", "abc"[n % 3], n) for user in range(5) for n in range(9)]
LATE = [("late", "abc"[n % 3], 10 + n / 9) for n in range(9)]
OTHERS = [
  ("twice", "a", 0),
  ("twice", "b", 20),
  ("mixed", "rare", 1),
  ("mixed", "c", 2),
  ("rare", "rare", 3),
  ("unknown", "nowhere", 4),
  ("u0", "nowhere", 30),
  ("u1", "rare", 30),
]


@pytest.fixture(scope="module", params=["leave_one_out", "global_temporal"])
def shop(request, tmp_path_factory):
  temporal = request.param == "global_temporal"
  return small_logs.build(
    tmp_path_factory.mktemp("shop"),
    [*CORE, *LATE, *OTHERS],
    ["a", "b", "c", "rare"],
    **(TEMPORAL if temporal else {}),
  )


def bought(shop, user):
  everybody = shop.cache.everybody
  document = everybody.document(everybody.rows[user])
  assert document.user_id == user
  return "".join(shop.ids(document.items))


def test_everybody_of_the_log_is_there_with_the_newest_events(shop):
  assert set(shop.cache.everybody.user_ids) == {
    *(f"u{n}" for n in range(5)),
    *("late", "twice", "mixed", "rare", "unknown"),
  }
  assert bought(shop, "u2") == bought(shop, "late") == "abcabcabc"
  assert bought(shop, "twice") == "ab"
  assert bought(shop, "mixed") == "c"
  assert bought(shop, "rare") == bought(shop, "unknown") == ""


def test_what_cannot_be_used_is_counted(shop):
  everybody = shop.cache.everybody
  rows = everybody.rows
  assert everybody.other_events[rows["mixed"]] == 1
  assert everybody.other_events[rows["rare"]] == 1
  assert everybody.other_events[rows["u1"]] == 1
  assert everybody.core_events[rows["u1"]] == 9
  assert not everybody.core_events[[rows["twice"], rows["unknown"]]].any()
  assert everybody.min_count == 5


def test_purchases_are_all_of_the_log(shop):
  items = shop.cache.purchases(everybody_lib.NAME).items
  names, counts = np.unique(shop.ids(items), return_counts=True)
  assert dict(zip(names, counts, strict=True)) == {"a": 19, "b": 19, "c": 19}


def files_of(folder):
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in folder.rglob("*")
    if path.is_file() and path.name != everybody_lib.FILE
  }


def test_a_cache_of_an_earlier_version_gets_them_and_stays_as_it_is(shop):
  before, everybody = files_of(shop.cache.path), shop.cache.everybody
  path = shop.cache.path / everybody_lib.FILE
  for damage in (path.unlink, lambda: os.truncate(path, 100)):
    damage()
    cache = TokenCache.open(shop.cache.path)
    assert cache.everybody is None
    with pytest.raises(CacheError, match="no usable everybody"):
      cache.purchases(everybody_lib.NAME)
    building.attach_everybody(shop.dataset, cache, progress=False)
    assert cache.everybody.sha256 == everybody.sha256
    again = TokenCache.open(shop.cache.path)
    assert again.everybody.sha256 == everybody.sha256
    assert again.fingerprint == cache.fingerprint
    again.verify()
  assert files_of(shop.cache.path) == before


def test_those_of_another_cache_are_not_used(shop):
  folder = shop.cache.path
  assert everybody_lib.read(folder, shop.cache.fingerprint) is not None
  assert everybody_lib.read(folder, "0" * 64) is None


def test_a_folder_that_cannot_be_written_to_gets_them_in_memory(
  shop, monkeypatch, capsys
):
  def refuse(*_):
    raise PermissionError("read-only")

  cache = TokenCache.open(shop.cache.path)
  cache.everybody = None
  monkeypatch.setattr(everybody_lib, "write", refuse)
  building.attach_everybody(shop.dataset, cache)
  assert cache.everybody.sha256 == shop.cache.everybody.sha256
  assert "is not saved: read-only" in capsys.readouterr().out


def test_a_history_is_as_long_as_a_document(tmp_path):
  shop = small_logs.build(
    tmp_path, [*CORE, *LATE], ["a", "b", "c"], max_history=3
  )
  assert bought(shop, "u2") == "cabc"  # Three and the target of a test.
  assert len(shop.cache.purchases(everybody_lib.NAME).items) == 54


@pytest.mark.parametrize("split", ["leave_one_out", "global_temporal"])
def test_kinds_of_events_are_those_of_the_cache(tmp_path, split):
  rows = kinds_toys.rows(users=6, visits=4)
  # A kind that only somebody below the core has is no kind of the domain.
  views = tuple(row for row in rows if row[2] != kinds_toys.CART)
  once = (("once", 1, kinds_toys.VIEW), ("once", 2, kinds_toys.CART))
  log = kinds_toys.Log((*views, *once), hours=24)
  dataset = Dataset(
    domains=[kinds_toys.domain(log, split=split, min_count=3)],
    vocabulary=TrainedSentencePiece(size=320),
    data_dir=str(tmp_path),
  )
  [path] = building.build(dataset, "toys", progress=False).values()
  cache = TokenCache.open(path)
  assert cache.kinds.names == ("view", "purchase")
  everybody = cache.everybody
  users = cache.documents("train", range(cache.num_documents("train")))
  for document in users:
    whole = everybody.document(everybody.rows[document.user_id])
    length = len(document.items)
    for mark in ("items", "kinds", "targets"):
      assert np.array_equal(
        getattr(whole, mark)[:length], getattr(document, mark)
      )
    assert cache.items_of(whole).kinds is not None
  row = everybody.rows["once"]
  assert everybody.document(row).kinds.tolist() == [0]
  assert everybody.other_events[row] == 1
  bought = cache.purchases(everybody_lib.NAME)
  every = cache.purchases(everybody_lib.NAME, every_kind=True)
  assert len(bought.items) == everybody.targets.sum() < len(every.items)
  assert bought.offsets[-1] == len(bought.items)
