"""The feed of a domain with views and purchases: only purchases are targets."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec_jax.data.cache import files, token_cache, writer
from calrec_jax.data.feed import tokenization, windows
from calrec_jax.data.feed.feed import Feed
from calrec_jax.data.feed.windows import Histories, Limits
from calrec_jax.data.records import EventKinds, PromptTokens
from calrec_jax.recommend.prompts import PromptLimits, PromptWriter
from tests.fixtures import synthetic_caches

# The templates of kinds have different lengths, the first as the next.
PROMPT = PromptTokens(
  begin=1,
  end=synthetic_caches.END,
  prefix=(4, 5),
  first=(8, 9),
  next=(10, 11),
  first_of_kind=((6,), (8, 9)),
  next_of_kind=((7,), (10, 11)),
)
KINDS = EventKinds(("view", "purchase"), ("purchase",))
VIEW, PURCHASE = range(2)


def document(user, numbers, items, buys=0.3):
  length = int(numbers.integers(1, 40))
  kinds = (numbers.random(length) < buys).astype(np.int8)
  return files.DocumentRecord(
    f"user-{user}",
    numbers.integers(0, items, length).astype(np.int32),
    np.arange(length),
    kinds,
    kinds == PURCHASE,
  )


def write(folder, users=40, items=30, seed=0):
  """Random histories; the validation target is a purchase of item 0."""
  numbers = np.random.default_rng(seed)
  train = [document(user, numbers, items) for user in range(users)]
  train[0] = train[0]._replace(  # Nothing to learn from.
    kinds=np.zeros_like(train[0].kinds),
    targets=np.zeros_like(train[0].targets),
  )
  validation = [
    files.DocumentRecord(
      user.user_id,
      np.append(user.items, 0).astype(np.int32),
      None,
      np.append(user.kinds, PURCHASE).astype(np.int8),
      np.append(user.targets, True),
    )
    for user in train
  ]
  lengths = numbers.integers(2, 7, items)
  path = folder / "shop-0123456789ab"
  writer.write_cache(
    path,
    [
      files.CatalogueRecord(
        f"i{row}", f"{row}", synthetic_caches.item_tokens(length, row)
      )
      for row, length in enumerate(lengths)
    ],
    {"train": train, "validation": validation},
    PROMPT,
    kinds=KINDS,
  )
  return token_cache.TokenCache.open(path)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
  return write(tmp_path_factory.mktemp("shop"))


def test_documents_carry_kinds_through_the_cache(shop, tmp_path):
  assert shop.kinds == KINDS
  assert shop.prompt == PROMPT
  assert shop.largest_token >= 11
  documents = shop.documents("train", range(40))
  for mark, values in (("kinds", np.int8), ("targets", bool)):
    joined = np.concatenate([getattr(one, mark) for one in documents])
    found = shop.event_marks("train", mark)
    assert found.dtype == values
    assert found.tolist() == joined.tolist()
    whole = shop.event_marks("train+validation", mark)
    extended = shop.documents("train+validation", range(40))
    joined = np.concatenate([getattr(one, mark) for one in extended])
    assert whole.tolist() == joined.tolist()
  counts = np.zeros(30, int)
  for one in documents:
    np.add.at(counts, one.items[one.targets], 1)
  assert shop.catalogue.train_counts.tolist() == counts.tolist()
  assert shop.purchases("train").counts(30).tolist() == counts.tolist()
  assert shop.purchases("train").recent(30) == pytest.approx(
    shop.catalogue.train_recent
  )
  events = sum(len(one.items) for one in documents)
  assert len(shop.purchases("train", every_kind=True).items) == events
  plain = synthetic_caches.write(tmp_path)
  assert plain.event_marks("train", "targets") is None
  assert not plain.targets_differ
  assert shop.targets_differ


def test_all_users_of_a_domain_have_kinds_or_none(tmp_path):
  numbers = np.random.default_rng(0)
  users = [document(user, numbers, 3) for user in range(3)]
  for bad in (
    users[1]._replace(kinds=None),
    users[1]._replace(targets=users[1].targets[1:]),
  ):
    items = [
      files.CatalogueRecord(f"i{row}", "", synthetic_caches.item_tokens(3, row))
      for row in range(3)
    ]
    with pytest.raises(files.CacheError, match=r"user-1.*(kinds|targets)"):
      writer.write_cache(
        tmp_path / "s-1", items, {"train": [users[0], bad]}, PROMPT
      )


@pytest.mark.parametrize("targets", ["all", "last"])
def test_the_prompt_of_inference_precedes_every_target(shop, targets):
  """Every purchase is a target once, after the prompt of what precedes it."""
  feed = Feed(row_tokens=96, row_slots=6, rows=4, context=2, targets=targets)
  reader = feed.open([shop])
  prompts = PromptWriter(shop.catalogue, shop.prompt, PromptLimits())
  expected, found = {}, {}
  for user, one in enumerate(shop.documents("train", range(40))):
    at = np.flatnonzero(one.targets[1:]) + 1
    expected[user] = len(at[-1:] if targets == "last" else at)
  stats = reader.stats
  for step in range(stats.steps_per_epoch):
    batch = reader.batch(step)
    weights = batch.loss_weights.sum()
    assert weights == (batch.joint_slots >= 0).sum()
    for row, slot in np.argwhere(batch.slot_items >= 0):
      user = int(batch.slot_users[row, slot])
      found[user] = found.get(user, 0) + 1
      item = int(batch.slot_items[row, slot])
      spelled = batch.tokens[row][batch.joint_slots[row] == slot]
      np.testing.assert_array_equal(spelled, shop.catalogue.tokens(item))
      spelled = batch.tokens[row][batch.item_slots[row] == slot]
      np.testing.assert_array_equal(spelled, shop.catalogue.tokens(item))
      first = int(np.argmax(batch.joint_slots[row] == slot))
      segment = batch.segment_ids[row] == batch.segment_ids[row, first]
      before = batch.tokens[row][segment & (np.arange(96) < first)]
      assert batch.loss_weights[row, first - 1] == 1
      items = shop.items_of(shop.document("train", user))
      served = [
        prompts.user(items[start:stop]).tolist()
        for stop in np.flatnonzero(items.kinds == PURCHASE)
        if shop.text_rows[items[stop]] == item
        for start in range(stop)
      ]
      assert before.tolist() in served
  [passes] = stats.passes_per_epoch.values()
  assert found == {
    user: passes * count for user, count in expected.items() if count
  }
  assert stats.users_without_target == {
    "shop": sum(not count for count in expected.values())
  }


def test_a_domain_without_any_target_is_refused(tmp_path):
  shop = write(tmp_path, users=1)
  with pytest.raises(ValueError, match=r"may be a target"):
    _ = Feed(row_tokens=96, row_slots=6, rows=2).open([shop]).stats


def test_validation_rows_end_with_the_target(shop):
  feed = Feed(row_tokens=96, row_slots=6, rows=4)
  batches = list(feed.open([shop]).eval_batches("validation"))
  targets = np.concatenate([batch.slot_items.ravel() for batch in batches])
  assert (targets >= 0).sum() == 40
  assert set(targets[targets >= 0]) == {0}


@st.composite
def histories(draw):
  users = draw(
    st.lists(
      st.lists(st.tuples(st.integers(2, 9), st.booleans()), max_size=25),
      min_size=1,
      max_size=4,
    )
  )
  events = [event for user in users for event in user]
  kinds = np.array([int(buys) for _, buys in events], np.int8)
  return Histories(
    np.array([length for length, _ in events], np.int64),
    np.cumsum([0, *map(len, users)]),
    kinds == PURCHASE,
    kinds,
  )


@settings(max_examples=300, deadline=None)
@given(
  histories(),
  st.integers(45, 120),
  st.integers(1, 4),
  st.sampled_from([None, 2, 5]),
  st.integers(1, 4),
  st.booleans(),
  st.randoms(use_true_random=False),
)
def test_windows_by_counting(
  many, row_tokens, slots, longest, context, segments, numbers
):
  limits = Limits(row_tokens, slots, longest, context, segments)
  costs = tokenization.token_costs(PROMPT)
  uniform = np.array([numbers.random() for _ in many.offsets[1:]])
  assert windows.first_misfit(many, limits, costs, last_only=False) is None
  seen = set()
  for last_only in (False, True):
    cut = (
      windows.cut_last(many, limits, costs)
      if last_only
      else windows.cut_all(many, limits, costs, uniform)
    )
    targets = []
    for user, start, first, stop, tokens, count in zip(
      *(column.tolist() for column in cut), strict=True
    ):
      own = slice(*many.offsets[user : user + 2])
      lengths, kinds = many.lengths[own], many.kinds[own]
      asked = [at for at in range(first, stop) if kinds[at] == PURCHASE]
      assert 0 <= start < first == asked[0]
      assert stop == asked[-1] + 1
      assert len(asked) == count <= slots
      joint = tokenization.document_tokens(
        PROMPT,
        [np.zeros(length, np.int32) for length in lengths[start:stop]],
        kinds[start:stop],
      )
      needed = len(joint) + segments * sum(1 + lengths[at] for at in asked)
      assert needed == tokens <= row_tokens
      if longest is not None:
        assert stop - 1 - start <= longest
      targets += [(user, at) for at in asked]
    expected = [
      (user, at)
      for user, (begin, end) in enumerate(
        zip(many.offsets, many.offsets[1:], strict=False)
      )
      for at in np.flatnonzero(many.targets[begin:end]).tolist()
      if at
    ]
    if last_only:
      expected = list(dict(expected).items())
    assert sorted(targets) == expected
    seen.update(targets)


def test_a_window_reaches_back_as_far_as_it_has_room():
  """Views between two purchases are read, as many as fit the row."""
  kinds = np.array([VIEW] * 12 + [PURCHASE] + [VIEW] * 12 + [PURCHASE], np.int8)
  many = Histories(np.full(26, 4), np.array([0, 26]), kinds == PURCHASE, kinds)
  costs = tokenization.token_costs(PROMPT)
  limits = Limits(65, 4, None, 1)
  cut = windows.cut_all(many, limits, costs, np.zeros(1))
  assert cut.first_target.tolist() == [12, 25]
  # 3 + 1 + 4 for a first view, 5 for others, 6 for the purchase, 5 alone.
  assert cut.start.tolist() == [2, 15]
  assert cut.tokens.tolist() == [64, 64]
  short = windows.cut_all(
    many, limits._replace(row_tokens=200), costs, np.zeros(1)
  )
  assert [column.tolist() for column in short[1:4]] == [[0], [12], [26]]


def test_first_templates_of_other_lengths_never_make_a_row_overflow():
  prompt = dataclasses.replace(
    PROMPT, first_of_kind=((6, 6, 6), (8,)), first=(8,)
  )
  costs = tokenization.token_costs(prompt)
  numbers = np.random.default_rng(0)
  kinds = (numbers.random(300) < 0.3).astype(np.int8)
  many = Histories(
    numbers.integers(2, 8, 300), np.arange(0, 301, 30), kinds == PURCHASE, kinds
  )
  limits = Limits(60, 3, None, 2)
  cut = windows.cut_all(many, limits, costs, numbers.random(10))
  for user, start, _, stop, tokens, _ in zip(*cut, strict=True):
    own = slice(many.offsets[user] + start, many.offsets[user] + stop)
    lengths = many.lengths[own]
    joint = tokenization.document_tokens(
      prompt, [np.zeros(n, np.int32) for n in lengths], many.kinds[own]
    )
    assert len(joint) <= tokens <= 60
