"""Token caches read by item ids: tokens, rows of the feed, what is saved."""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from calrec_jax.checkpoint import initial_parameters
from calrec_jax.data.cache import item_ids
from calrec_jax.data.cache.files import CacheError
from calrec_jax.data.feed.feed import Feed
from tests.fixtures import synthetic_caches

HISTORIES = {
  "shop": ((0, 1, 2), (3, 4), (5, 6, 0, 1)),
  "mart": ((2, 0), (1, 1, 2)),
}
ITEMS = {"shop": (3, 4, 5, 3, 6, 2, 4), "mart": (2, 3, 4)}
FEED = Feed(
  row_tokens=8, row_slots=8, rows=2, max_history=6, item_segments=False
)


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
  return [
    synthetic_caches.write(
      tmp_path_factory.mktemp(name),
      name=name,
      item_lengths=ITEMS[name],
      histories=HISTORIES[name],
    )
    for name in HISTORIES
  ]


@pytest.fixture(scope="module")
def views(caches):
  return item_ids.by_item_ids(caches)


def documents_in(batch):
  """Tokens of each document, and its number of targets."""
  found = []
  for row in range(len(batch.tokens)):
    for segment in range(1, batch.segment_ids[row].max() + 1):
      at = np.flatnonzero(batch.segment_ids[row] == segment)
      weights = batch.loss_weights[row][at]
      assert batch.positions[row][at].tolist() == list(range(len(at)))
      assert weights[-1] == 0
      found.append((tuple(batch.tokens[row][at].tolist()), int(weights.sum())))
  return found


def test_an_epoch_holds_every_history_as_item_tokens(views):
  feed = FEED.open(views)
  expected = set()
  for name, first in (("shop", 1), ("mart", 8)):
    for history in HISTORIES[name]:
      tokens = tuple(first + item for item in history)
      expected.add((tokens, len(history) - 1))
  found = set()
  for step in range(feed.stats.steps_per_epoch):
    found.update(documents_in(feed.batch(step)))
  assert found == expected


def test_the_validation_event_is_trained_on_where_requested(views):
  # The caches' validation documents end with item 0.
  feed = dataclasses.replace(FEED, split="validation").open(views[:1])
  found = set()
  for step in range(feed.stats.steps_per_epoch):
    found.update(tokens for tokens, _ in documents_in(feed.batch(step)))
  assert found == {
    tuple(1 + item for item in (*history, 0)) for history in HISTORIES["shop"]
  }


def test_a_last_fit_leaves_no_user_out(tmp_path):
  shop = synthetic_caches.write(
    tmp_path, histories=HISTORIES["shop"], validated=(0, 2)
  )
  views = item_ids.by_item_ids([shop])
  feed = dataclasses.replace(FEED, split="validation").open(views)
  found = set()
  for step in range(feed.stats.steps_per_epoch):
    found.update(tokens for tokens, _ in documents_in(feed.batch(step)))
  assert found == {(1, 2, 3, 1), (4, 5), (6, 7, 1, 2, 1)}
  assert feed.settings()["documents"] == "train+validation"


def test_without_item_segments_a_batch_is_the_joint_segments_alone(caches):
  feed = Feed(row_tokens=64, row_slots=8, rows=2)
  with_segments, without = (
    dataclasses.replace(feed, item_segments=enabled).open(caches[:1]).batch(0)
    for enabled in (True, False)
  )
  assert (with_segments.item_slots >= 0).any()
  assert not (without.item_slots >= 0).any()
  assert (without.joint_slots >= 0).any()
  joint = np.sort(with_segments.tokens[with_segments.joint_slots >= 0])
  assert len(joint) > 0
  assert without.loss_weights.sum() == (without.joint_slots >= 0).sum()


def test_settings_that_came_later_change_no_fingerprint_by_default(caches):
  feed = Feed(row_tokens=64, row_slots=8, rows=2)
  plain = feed.open(caches)
  assert not {"Feed.split", "Feed.item_segments"} & plain.settings().keys()
  for changed in ({"split": "validation"}, {"item_segments": False}):
    other = dataclasses.replace(feed, **changed).open(caches)
    assert other.fingerprint != plain.fingerprint
    # Where everybody is validated, a last fit reads what it did before.
    assert "documents" not in other.settings()


def test_the_vocabulary_says_which_items_the_tokens_are(caches, views):
  vocabulary = views[1].vocabulary()
  assert vocabulary.size == 1 + 7 + 3
  assert views[1].largest_token == 10
  assert vocabulary.decode([0, 1, 7, 8, 11]) == (
    "padding shop:0 shop:6 mart:0 unknown:11"
  )
  record = initial_parameters.vocabulary_record(views[0], None)
  assert json.loads(json.dumps(record)) == record
  assert [at["first_token"] for at in record["domains"]] == [1, 8]
  [other] = item_ids.by_item_ids(caches[:1])
  assert other.vocabulary().sha256 != vocabulary.sha256
  assert other.domain.sha256 == views[0].domain.sha256


def test_views_travel_to_worker_processes(views):
  again = pickle.loads(pickle.dumps(views[1]))
  assert again.domain == views[1].domain
  assert again.vocabulary().sha256 == views[1].vocabulary().sha256
  np.testing.assert_array_equal(again.item_tokens[0], views[1].item_tokens[0])


def test_texts_of_items_are_cut_and_padded(caches, views):
  pairs = [(view.texts(), view.domain) for view in views]
  sizes = {"rows": 16, "vocabulary_size": 50}
  texts = item_ids.item_texts(pairs, length=3, **sizes)
  again = item_ids.item_texts(pairs, length=3, **sizes)
  longer = item_ids.item_texts(pairs, length=4, **sizes)
  assert texts == again
  assert hash(texts) == hash(again)
  assert texts != longer
  assert (texts.tokens[0] == -1).all()  # Padding is no item.
  for cache, view in zip(caches, views, strict=True):
    values, offsets = cache.item_tokens
    for row in range(cache.num_items):
      text = values[offsets[row] : offsets[row + 1]].tolist()[:3]
      found = texts.tokens[view.domain.first_token + row].tolist()
      assert found == text + [-1] * (3 - len(text))
  nothing = item_ids.item_texts([], length=3, **sizes)
  assert nothing.tokens.shape == texts.tokens.shape


def test_written_items_are_verified(views, tmp_path):
  path = tmp_path / item_ids.ITEMS_FILE
  item_ids.write_items(views, path)
  for view in views:
    ids = item_ids.read_items(path, view.domain)
    assert ids == list(view.texts().catalogue.item_ids)
  with pytest.raises(CacheError, match="does not hold the items"):
    item_ids.read_items(path, views[0].domain._replace(sha256="0"))
  path.write_text("[]")
  with pytest.raises(CacheError, match="does not hold the items"):
    item_ids.read_items(path, views[0].domain)
