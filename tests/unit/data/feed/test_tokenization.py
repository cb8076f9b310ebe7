"""Joining tokens: prompts, documents, and the slots of a row."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.feed import tokenization
from calrec_jax.data.feed.batch import Batch
from tests.fixtures import synthetic_caches

PROMPT = synthetic_caches.PROMPT
ITEMS = [
  np.array(tokens, np.int32) for tokens in ([30, 3], [40, 41, 3], [50, 3])
]

item_lists = st.lists(
  st.lists(st.integers(20, 90), min_size=1, max_size=4).map(
    lambda body: np.array([*body, synthetic_caches.END], np.int32)
  ),
  min_size=2,
  max_size=8,
)
prompts = st.sampled_from(
  [
    PROMPT,
    dataclasses.replace(PROMPT, begin=None),
    dataclasses.replace(PROMPT, prefix=(), first=(7, 8)),
  ]
)


def _written(prompt, items, first_target, tokens=128, slots=8):
  batch = Batch.empty(1, tokens, slots)
  cursor = tokenization.write_document(
    batch,
    0,
    tokenization.Cursor(),
    prompt,
    items,
    targets=range(first_target, len(items)),
    slot_items=np.arange(100, 100 + len(items) - first_target),
    slot_user=9,
  )
  return batch, cursor


def test_prompt_is_the_pieces_in_order():
  assert tokenization.prompt_tokens(PROMPT, ITEMS).tolist() == [
    *(1, 4, 5, 6),
    *(30, 3, 7, 8),
    *(40, 41, 3, 7, 8),
    *(50, 3, 7, 8),
  ]


def test_prompt_without_history_is_what_precedes_a_first_item():
  assert tokenization.prompt_tokens(PROMPT, []).tolist() == [1, 4, 5, 6]


def test_document_arrays_are_these():
  batch, cursor = _written(PROMPT, ITEMS, 1, tokens=26, slots=3)
  joint = [1, 4, 5, 6, 30, 3, 7, 8, 40, 41, 3, 7, 8, 50, 3]
  assert batch.tokens[0].tolist() == [
    *joint, *(1, 40, 41, 3), *(1, 50, 3), *[0] * 4
  ]  # fmt: skip
  assert batch.positions[0].tolist() == [
    *range(15), *range(4), *range(3), *[0] * 4
  ]  # fmt: skip
  assert batch.segment_ids[0].tolist() == [
    *[1] * 15, *[2] * 4, *[3] * 3, *[0] * 4
  ]  # fmt: skip
  assert batch.joint_slots[0].tolist() == [
    *[-1] * 8, 0, 0, 0, -1, -1, 1, 1, *[-1] * 11
  ]  # fmt: skip
  assert np.flatnonzero(batch.loss_weights[0]).tolist() == [7, 8, 9, 12, 13]
  assert batch.item_slots[0].tolist() == [
    *[-1] * 16, 0, 0, 0, -1, 1, 1, *[-1] * 4
  ]  # fmt: skip
  assert batch.slot_items[0].tolist() == [100, 101, -1]
  assert batch.slot_users[0].tolist() == [9, 9, -1]
  assert cursor == (22, 2, 4)


@given(prompts, item_lists, st.data())
def test_costs_count_what_is_written(prompt, items, data):
  first_target = data.draw(st.integers(1, len(items) - 1))
  _, cursor = _written(prompt, items, first_target)
  costs = tokenization.token_costs(prompt)
  lengths = [len(tokens) for tokens in items]
  targets = len(items) - first_target
  assert cursor.token == (
    costs.opening
    + sum(lengths)
    + costs.between * (len(items) - 1)
    + sum(lengths[first_target:])
    + costs.begin * targets
  )


@given(prompts, item_lists)
def test_prompt_equals_what_precedes_the_target_in_training(prompt, items):
  """Train/serve skew: the prompt had no template as seen in training."""
  batch, _ = _written(prompt, items, 1)
  for target in range(1, len(items)):
    start = int(np.argmax(batch.joint_slots[0] == target - 1))
    served = tokenization.prompt_tokens(prompt, items[:target])
    np.testing.assert_array_equal(batch.tokens[0, :start], served)


@given(prompts, item_lists)
def test_loss_weights_are_one_position_before_the_target_tokens(prompt, items):
  """Unshifted loss: the label of a position is the next token."""
  batch, _ = _written(prompt, items, 1)
  np.testing.assert_array_equal(
    batch.loss_weights[0, :-1] == 1, batch.joint_slots[0, 1:] >= 0
  )


@given(prompts, item_lists)
def test_an_item_has_the_same_tokens_as_target_and_in_its_tower(prompt, items):
  batch, _ = _written(prompt, items, 1)
  for slot, tokens in enumerate(items[1:]):
    for slots in (batch.joint_slots, batch.item_slots):
      np.testing.assert_array_equal(batch.tokens[0][slots[0] == slot], tokens)


@given(prompts, item_lists, st.integers(8, 60))
def test_truncation_drops_the_oldest_items_whole(prompt, items, limit):
  """Right truncation: long histories lost their end, or half an item."""
  try:
    tokens = tokenization.prompt_tokens(prompt, items, limit)
  except tokenization.PromptTooLong:
    newest = tokenization.prompt_tokens(prompt, items[-1:])
    assert len(newest) > limit
    return
  assert len(tokens) <= limit
  fits = [
    tokenization.prompt_tokens(prompt, items[start:])
    for start in range(len(items))
  ]
  longest = next(prompt for prompt in fits if len(prompt) <= limit)
  np.testing.assert_array_equal(tokens, longest)


def test_a_prompt_that_cannot_be_shortened_is_an_error():
  with pytest.raises(
    tokenization.PromptTooLong, match=r"takes 8 tokens.* the 7 all"
  ):
    tokenization.prompt_tokens(PROMPT, ITEMS, 7)
  with pytest.raises(tokenization.PromptTooLong, match="takes 4 tokens"):
    tokenization.prompt_tokens(PROMPT, [], 3)
