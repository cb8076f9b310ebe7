"""The feed: batches as planned, settings checked, evaluation rows."""

import dataclasses
import pickle

import gin
import numpy as np
import pytest

from calrec_jax.data.feed import tokenization
from calrec_jax.data.feed.batch import Batch
from calrec_jax.data.feed.feed import Feed
from tests.fixtures import synthetic_caches

SMALL = Feed(row_tokens=96, row_slots=10, rows=4, context=2)


@pytest.fixture(scope="module")
def shops(tmp_path_factory):
  folder = tmp_path_factory.mktemp("shops")
  return [
    synthetic_caches.write_random(folder, name="shop", users=40, seed=1),
    synthetic_caches.write_random(
      folder, name="mart", users=25, items=20, seed=2
    ),
  ]


def _segments(batch, row):
  """Segments of a row as (tokens, slots of items, slots in the history)."""
  found = []
  for segment in range(1, batch.segment_ids[row].max() + 1):
    at = batch.segment_ids[row] == segment
    found.append(
      (
        batch.tokens[row][at],
        batch.item_slots[row][at],
        batch.joint_slots[row][at],
      )
    )
  return found


def test_batches_have_the_declared_shapes(shops):
  batch = SMALL.open(shops).batch(0)
  for array, empty in zip(batch, Batch.empty(4, 96, 10), strict=True):
    assert array.shape == empty.shape
    assert array.dtype == empty.dtype


def test_every_slot_names_the_item_its_tokens_spell(shops):
  reader = SMALL.open(shops)
  num_items = [cache.num_items for cache in shops]
  slots = 0
  for step in range(12):
    batch = reader.batch(step)
    for row in range(4):
      for slot in np.flatnonzero(batch.slot_items[row] >= 0):
        item = batch.slot_items[row, slot]
        domain = int(item >= num_items[0])
        cache = shops[domain]
        tokens = cache.catalogue.tokens(item - domain * num_items[0])
        for at in (batch.joint_slots, batch.item_slots):
          spelled = batch.tokens[row][at[row] == slot]
          np.testing.assert_array_equal(spelled, tokens)
        user = batch.slot_users[row, slot]
        assert (user >= shops[0].num_documents("train")) == domain
        slots += 1
  assert slots > 100


def test_the_prompt_of_inference_precedes_every_training_target(shops):
  """Train/serve skew, through the whole feed: windows included."""
  reader, checked = SMALL.open(shops[:1]), 0
  cache = shops[0]
  for step in range(6):
    batch = reader.batch(step)
    for row in range(4):
      for tokens, _, joint_slots in _segments(batch, row):
        for slot in np.unique(joint_slots[joint_slots >= 0]):
          before = int(np.argmax(joint_slots == slot))
          user = int(batch.slot_users[row, slot])
          items = cache.document("train", user).items
          prompts = [
            tokenization.prompt_tokens(
              cache.prompt,
              [cache.catalogue.tokens(item) for item in items[start:stop]],
            )
            for stop in range(1, len(items))
            for start in range(stop)
            if cache.text_rows[items[stop]] == batch.slot_items[row, slot]
          ]
          served = tokens[:before].tolist()
          assert served in [prompt.tolist() for prompt in prompts]
          checked += 1
  assert checked > 100


def test_positions_restart_in_every_segment_and_padding_is_bare(shops):
  reader = SMALL.open(shops)
  for step in range(5):
    batch = reader.batch(step)
    for row in range(4):
      ids = batch.segment_ids[row]
      for segment in range(1, ids.max() + 1):
        at = np.flatnonzero(ids == segment)
        assert (np.diff(at) == 1).all()
        np.testing.assert_array_equal(
          batch.positions[row, at], np.arange(len(at))
        )
      padding = ids == 0
      assert (batch.tokens[row][padding] == 0).all()
      assert (batch.loss_weights[row][padding] == 0).all()
      assert (batch.item_slots[row][padding] == -1).all()
      assert (batch.joint_slots[row][padding] == -1).all()


def test_nothing_is_dropped_and_the_last_step_is_filled_up(shops):
  reader = SMALL.open(shops[:1])
  stats = reader.stats
  targets = sum(
    int((reader.batch(step).slot_items >= 0).sum())
    for step in range(stats.steps_per_epoch)
  )
  events = np.diff(shops[0].event_lengths("train")[1])
  passes = stats.passes_per_epoch["shop"]
  assert passes == int(passes)
  assert targets == passes * (events - 1).sum()
  rows = stats.steps_per_epoch * SMALL.rows
  assert stats.targets_per_row == pytest.approx(targets / rows)
  assert 0.8 < stats.fill < 1
  assert stats.users_without_target == {"shop": (events == 1).sum()}


def test_fill_counts_the_tokens_of_the_batches(shops):
  reader = SMALL.open(shops)
  steps = reader.stats.steps_per_epoch
  filled = sum(
    (reader.batch(step).segment_ids > 0).mean() for step in range(steps)
  )
  assert reader.stats.fill == pytest.approx(filled / steps)


def test_items_with_identical_text_are_one_item_in_the_slots(tmp_path):
  shop = synthetic_caches.write(tmp_path, histories=((0, 1), (2, 3)) * 4)
  shop.__dict__["text_rows"] = np.array([0, 0, 2, 2, 4, 5, 6], np.int32)
  batch = SMALL.open([shop]).batch(0)
  assert set(batch.slot_items[batch.slot_items >= 0]) == {0, 2}


def test_iterating_is_batch_by_step(shops):
  reader = SMALL.open(shops)
  steps = []
  for step, batch in reader.iterator(3, 9):
    steps.append(step)
    for array, again in zip(batch, reader.batch(step), strict=True):
      np.testing.assert_array_equal(array, again)
  assert steps == list(range(3, 9))


def test_iterating_without_end_starts_anywhere(shops):
  iterator = SMALL.open(shops).iterator(1000)
  assert [next(iterator)[0] for _ in range(2)] == [1000, 1001]


def test_it_travels_to_another_process(shops):
  reader = SMALL.open(shops)
  again = pickle.loads(pickle.dumps(reader))
  assert again.fingerprint == reader.fingerprint
  np.testing.assert_array_equal(again.batch(5).tokens, reader.batch(5).tokens)


def test_evaluation_has_every_user_once_and_the_last_item_as_target(shops):
  reader = dataclasses.replace(SMALL, max_history=3).open(shops[:1])
  users = {}
  batches = list(reader.eval_batches("validation"))
  for batch in batches:
    for row in range(4):
      for tokens, _, slots in _segments(batch, row):
        for slot in np.unique(slots[slots >= 0]):
          user = int(batch.slot_users[row, slot])
          assert user not in users
          users[user] = tokens, slots
          assert batch.slot_items[row, slot] == 0
  histories = shops[0].histories("validation")
  assert sorted(users) == list(range(len(histories)))
  catalogue = shops[0].catalogue
  for user, history in enumerate(histories):
    prompt = tokenization.prompt_tokens(
      shops[0].prompt, [catalogue.tokens(item) for item in history.items[-3:]]
    )
    target = catalogue.tokens(history.target)
    tokens, slots = users[user]
    np.testing.assert_array_equal(tokens, [*prompt, *target])
    assert (slots >= 0).sum() == len(target)


def test_evaluation_of_some_users_is_a_function_of_the_seed(shops):
  reader = SMALL.open(shops)

  def users(seed):
    batches = reader.eval_batches("validation", limit=5, seed=seed)
    return {int(user) for at in batches for user in at.slot_users.ravel()}

  assert len(users(0) - {-1}) == 10
  assert users(0) == users(0) != users(1)


def test_last_targets_have_one_slot_a_user(shops):
  reader = dataclasses.replace(SMALL, targets="last").open(shops)
  batch = reader.batch(0)
  for row in range(4):
    users = batch.slot_users[row][batch.slot_users[row] >= 0]
    segments = _segments(batch, row)
    histories = [at for at in segments if (at[1] < 0).all()]
    assert len(histories) == len(users) == (len(segments) / 2)


def test_an_item_that_fits_no_row_is_named(tmp_path):
  shop = synthetic_caches.write(
    tmp_path, item_lengths=(3, 4, 50, 3, 6, 2, 4), histories=((0, 1), (3, 2, 1))
  )
  message = (
    r"Item 'shop-2' of shop .* only the item 'shop-3' before it, it takes 110 "
    r"tokens \(user 'user-1' of train\), but Feed\.row_tokens = 96"
  )
  with pytest.raises(ValueError, match=message):
    SMALL.open([shop])
  reader = dataclasses.replace(SMALL, row_tokens=110).open([shop])
  assert reader.stats.fill > 0


def test_a_target_that_fits_no_evaluation_row_is_named(tmp_path):
  shop = synthetic_caches.write(
    tmp_path, item_lengths=(60, 4, 5), histories=((1, 2), (2, 1))
  )
  reader = SMALL.open([shop])
  with pytest.raises(ValueError, match=r"Item 'shop-0'.*of validation"):
    list(reader.eval_batches("validation"))


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"rows": 0}, r"Feed\.rows = 0: must be a whole number, at least 1"),
    (
      {"row_tokens": 512.0},
      r"Feed\.row_tokens = 512\.0: must be a whole number",
    ),
    ({"row_slots": True}, r"Feed\.row_slots = True"),
    ({"context": 0}, r"Feed\.context = 0"),
    ({"seed": -1}, r"Feed\.seed = -1"),
    ({"max_history": 0}, r"Feed\.max_history = 0"),
    ({"targets": "first"}, r"Feed\.targets = 'first': must be one of 'all'"),
    ({"mixing_exponent": 2}, r"Feed\.mixing_exponent = 2"),
    ({"shard_count": 3}, r"Feed\.rows = 4: must be .* shard_count = 3"),
    ({"shard_index": 1}, r"Feed\.shard_index = 1: .* below 1"),
  ],
)
def test_settings_are_refused_by_their_gin_names(settings, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(SMALL, **settings)


def test_it_is_configured_by_gin():
  with gin.unlock_config():
    gin.parse_config(
      "Feed.row_tokens = 64\nFeed.row_slots = 4\nFeed.rows = 2\n"
      'Feed.targets = "last"'
    )
  try:
    assert Feed() == Feed(row_tokens=64, row_slots=4, rows=2, targets="last")
    with gin.unlock_config():
      gin.clear_config()
    with pytest.raises(RuntimeError, match=r"Required bindings for `Feed`"):
      Feed()
  finally:
    gin.clear_config()


def test_caches_of_different_vocabularies_do_not_mix(tmp_path):
  model = tmp_path / "other.model"
  model.write_text("another vocabulary")
  one = synthetic_caches.write(tmp_path, name="one")
  two = synthetic_caches.write(tmp_path, name="two", vocabulary_files=[model])
  with pytest.raises(
    ValueError, match=r"one and two .* different vocabularies"
  ):
    SMALL.open([one, two])
  with pytest.raises(ValueError, match="appears twice"):
    SMALL.open([one, one])
