"""The token cache: what is written comes back, and damage is named."""

import json
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from calrec_jax.data.cache import files, writer
from calrec_jax.data.cache.token_cache import CacheError, TokenCache
from calrec_jax.data.vocabulary import files as vocabulary_files
from calrec_jax.data.vocabulary import trained
from tests.fixtures import synthetic_caches

REMEDY = "calrec data cache"


@pytest.fixture
def shop(tmp_path):
  return synthetic_caches.write(tmp_path)


def test_catalogue_comes_back(shop):
  catalogue = shop.catalogue
  assert shop.name == "shop"
  assert len(catalogue) == shop.num_items == 7
  assert catalogue.item_ids[2] == "shop-2"
  assert catalogue.texts[2] == "Title: 2."
  np.testing.assert_array_equal(catalogue.lengths, [3, 4, 5, 3, 6, 2, 4])
  np.testing.assert_array_equal(
    catalogue.tokens(4), synthetic_caches.item_tokens(6, 4)
  )
  np.testing.assert_array_equal(catalogue.train_counts, [2, 2, 1, 1, 1, 1, 1])
  recent = np.zeros(7)
  for user in shop.documents("train", range(3)):
    for age, item in enumerate(user.items[::-1], 1):
      recent[item] += 1 / age
  np.testing.assert_allclose(catalogue.train_recent, recent, rtol=1e-12)
  assert shop.item(3) == ("shop-3", "Title: 3.")
  assert shop.prompt == synthetic_caches.PROMPT
  assert shop.card == {"users": 3}


def test_users_come_back_in_any_order(shop):
  users = shop.documents("train", [2, 0, 2])
  assert [user.user_id for user in users] == ["user-2", "user-0", "user-2"]
  np.testing.assert_array_equal(users[0].items, [5, 6, 0, 1])
  np.testing.assert_array_equal(users[1].timestamps, [0, 10, 20])
  assert shop.document("validation", 1).timestamps is None
  assert shop.num_documents("train") == 3


def test_event_lengths_are_the_items_lengths(shop):
  lengths, offsets = shop.event_lengths("train")
  np.testing.assert_array_equal(lengths, [3, 4, 5, 3, 6, 2, 4, 3, 4])
  np.testing.assert_array_equal(offsets, [0, 3, 5, 9])


def test_histories_split_off_the_target(shop):
  histories = shop.histories("validation")
  assert [history.target for history in histories] == [0, 0, 0]
  np.testing.assert_array_equal(histories[1].items, [3, 4])
  assert len(shop.histories("validation", limit=2)) == 2


def test_purchases_are_those_of_the_users(shop):
  rows, offsets = shop.purchases("train")
  assert rows.dtype == np.int32
  users = shop.documents("train", range(3))
  for user, parts in zip(users, np.split(rows, offsets[1:-1]), strict=True):
    np.testing.assert_array_equal(user.items, parts)
  with pytest.raises(CacheError, match="no split 'tomorrow'"):
    shop.purchases("tomorrow")


def test_a_random_sample_is_a_function_of_the_seed(tmp_path):
  shop = synthetic_caches.write_random(tmp_path, users=200)
  sample = shop.sample("train", 20, seed=1)
  assert len(set(sample)) == 20
  assert (np.diff(sample) > 0).all()
  np.testing.assert_array_equal(sample, shop.sample("train", 20, seed=1))
  assert (sample != shop.sample("train", 20, seed=2)).any()
  assert sample.max() > 20


def test_the_fingerprint_follows_content_and_not_the_place(tmp_path):
  first = synthetic_caches.write(tmp_path / "a")
  again = synthetic_caches.write(tmp_path / "b")
  others = [
    synthetic_caches.write(tmp_path / "c", item_lengths=(3, 4, 5, 3, 6, 2, 5)),
    synthetic_caches.write(tmp_path / "d", histories=((0, 1, 2), (3, 4))),
    synthetic_caches.write(tmp_path / "e", seed=1),
  ]
  assert first.fingerprint == again.fingerprint
  assert len({first.fingerprint, *(at.fingerprint for at in others)}) == 4


def test_identical_texts_map_to_the_smallest_row(tmp_path):
  tokens = synthetic_caches.item_tokens
  items = [
    files.CatalogueRecord(str(row), "x", tokens(4, seed))
    for row, seed in enumerate([5, 6, 5, 5])
  ]
  user = files.DocumentRecord("u", np.array([0, 1]), None)
  path = writer.write_cache(
    tmp_path / "d-1", items, {"train": [user]}, synthetic_caches.PROMPT
  )
  np.testing.assert_array_equal(TokenCache.open(path).text_rows, [0, 1, 0, 0])


def test_the_vocabulary_travels_with_the_cache(tmp_path):
  texts = ["Title: soap. Brand: Acme.", "Title: tea. Brand: Leaf."]
  model = trained.TrainedSentencePiece(size=300).train(texts, ["\n"])
  written = vocabulary_files.write(str(tmp_path / "v"), model, begin=1)
  shop = synthetic_caches.write(tmp_path / "a", vocabulary_files=written.files)
  loaded = shop.vocabulary()
  assert loaded.decode(loaded.encode("Title: soap.")) == "Title: soap."
  assert shop.path in pathlib.Path(loaded.model_file).parents
  bare = synthetic_caches.write(tmp_path / "b")
  assert bare.vocabulary_fingerprint != shop.vocabulary_fingerprint
  with pytest.raises(CacheError, match=REMEDY):
    bare.vocabulary()


def test_it_travels_to_another_process_as_a_path(shop):
  shop.document("train", 0)
  assert "shop-0" in shop.catalogue.item_ids
  blob = pickle.dumps(shop)
  assert len(blob) < 10_000
  np.testing.assert_array_equal(
    pickle.loads(blob).document("train", 2).items, [5, 6, 0, 1]
  )


def test_a_cut_or_altered_file_is_named(shop):
  names = [name for name in os.listdir(shop.path) if name.endswith(".npy")]
  for name in (*names, "train.arrayrecord", "prompt.json"):
    file = shop.path / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(CacheError, match=rf"{name} has .* bytes.*{REMEDY}"):
      TokenCache.open(shop.path)
    file.write_bytes(whole)
  altered = shop.path / "train.lengths.npy"
  altered.write_bytes(altered.read_bytes()[:-1] + b"\1")
  with pytest.raises(CacheError, match=f"{altered.name} is corrupt.*{REMEDY}"):
    TokenCache.open(shop.path)


def test_altered_records_are_noticed_when_they_are_read(tmp_path):
  shop = synthetic_caches.write_random(tmp_path, users=2000)
  file = shop.path / "train.arrayrecord"
  content = bytearray(file.read_bytes())
  for at in range(70_000, len(content) - 200_000, 64):
    content[at] ^= 255
  file.write_bytes(content)
  damaged = TokenCache.open(shop.path)
  with pytest.raises(CacheError, match=f"train.arrayrecord.*{REMEDY}"):
    damaged.documents("train", range(2000))
  with pytest.raises(CacheError, match=r"train\.arrayrecord is corrupt"):
    damaged.verify()


def test_a_cache_without_its_manifest_is_incomplete(shop):
  (shop.path / files.MANIFEST).unlink()
  with pytest.raises(CacheError, match=f"not complete.*{REMEDY}"):
    TokenCache.open(shop.path)


def test_a_missing_cache_names_the_command(tmp_path):
  with pytest.raises(CacheError, match=f"no token cache.*{REMEDY}"):
    TokenCache.open(tmp_path / "nowhere")


def test_another_schema_is_refused(shop):
  file = shop.path / files.MANIFEST
  manifest = json.loads(file.read_text())
  file.write_text(json.dumps(manifest | {"schema": 0}))
  with pytest.raises(CacheError, match=f"schema 0.*{REMEDY}"):
    TokenCache.open(shop.path)


def test_an_interrupted_write_leaves_nothing(tmp_path):
  def users():
    yield files.DocumentRecord("u", np.array([0, 1]), None)
    raise KeyboardInterrupt

  items = [
    files.CatalogueRecord(str(row), "x", synthetic_caches.item_tokens(3, row))
    for row in range(2)
  ]
  with pytest.raises(KeyboardInterrupt):
    writer.write_cache(
      tmp_path / "d-1", items, {"train": users()}, synthetic_caches.PROMPT
    )
  assert list(tmp_path.iterdir()) == []


def test_the_card_is_made_when_all_documents_were_written(tmp_path):
  written = []

  def users(split):
    yield files.DocumentRecord("u", np.array([0, 0]), None)
    written.append(split)

  path = writer.write_cache(
    tmp_path / "d-1",
    [files.CatalogueRecord("soap", "x", [5, 3])],
    {split: users(split) for split in ("test", "train")},
    synthetic_caches.PROMPT,
    card=lambda: {"written": list(written)},
  )
  assert TokenCache.open(path).card == {"written": ["test", "train"]}


def test_writing_again_mends_a_damaged_cache(shop, tmp_path):
  (shop.path / "train.lengths.npy").unlink()
  mended = synthetic_caches.write(tmp_path)
  assert mended.fingerprint == shop.fingerprint
  assert [file.name for file in tmp_path.iterdir()] == [shop.path.name]


@pytest.mark.parametrize(
  ("tokens", "message"),
  [
    ([5, 6], "does not end with the end marker"),
    ([], "does not end with the end marker"),
    ([5, 3, 6, 3], "holds the end marker .* before its end"),
    ([5, -1, 3], "holds the token -1"),
  ],
)
def test_unusable_items_are_refused(tmp_path, tokens, message):
  items = [files.CatalogueRecord("soap", "x", tokens)]
  with pytest.raises(CacheError, match=f"'soap' {message}"):
    writer.write_cache(tmp_path / "d-1", items, {}, synthetic_caches.PROMPT)


def test_an_item_id_appears_once(tmp_path):
  items = [files.CatalogueRecord("soap", "x", [5, 3])] * 2
  with pytest.raises(CacheError, match="'soap' appears twice"):
    writer.write_cache(tmp_path / "d-1", items, {}, synthetic_caches.PROMPT)


@pytest.mark.parametrize(
  ("items", "times", "message"),
  [
    ([], None, "has no items"),
    ([0, 1], None, "outside the catalogue"),
    ([0, 0], [1], "2 items and 1 timestamps"),
  ],
)
def test_unusable_users_are_refused(tmp_path, items, times, message):
  catalogue = [files.CatalogueRecord("soap", "x", [5, 3])]
  users = [files.DocumentRecord("ann", np.array(items, int), times)]
  with pytest.raises(CacheError, match=f"'ann' of train .*{message}"):
    writer.write_cache(
      tmp_path / "d-1", catalogue, {"train": users}, synthetic_caches.PROMPT
    )


def test_building_and_reading_need_no_tensorflow():
  code = (
    "import sys, calrec_jax.data.building, calrec_jax.data.feed.feed; "
    "sys.exit('tensorflow' in sys.modules or 'seqio' in sys.modules)"
  )
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0
