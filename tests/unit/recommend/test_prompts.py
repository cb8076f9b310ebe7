"""Padding to few shapes, and how much of a history is read."""

import gin
import numpy as np
import pytest

from calrec_jax.data.feed import feed, tokenization
from calrec_jax.data.records import EventItems, PromptTokens
from calrec_jax.recommend import prompts
from tests.fixtures import recommend_toys as toys


@pytest.mark.parametrize(
  ("length", "padded"),
  [(1, 8), (8, 8), (9, 16), (16, 16), (17, 32), (33, 64), (64, 64)],
)
def test_lengths_are_doubles(length, padded):
  assert prompts.padded_length(length, 8) == padded


def test_every_sequence_is_held_once():
  draw = np.random.default_rng(0)
  sequences = [
    draw.integers(1, 9, n).astype(np.int32) for n in draw.integers(1, 40, 23)
  ]
  seen = []
  for batch in prompts.token_rows(sequences, rows=4, smallest_length=8):
    assert batch.tokens.shape[0] == len(batch.lengths) == 4
    for row, place in enumerate(batch.indices):
      length = int(batch.lengths[row])
      assert prompts.padded_length(length, 8) == batch.tokens.shape[1]
      np.testing.assert_array_equal(
        batch.tokens[row, :length], sequences[place]
      )
      assert not batch.tokens[row, length:].any()
    assert not batch.lengths[len(batch.indices) :].any()
    seen += batch.indices
  assert sorted(seen) == list(range(23))


def test_only_the_newest_items_are_read():
  items = toys.catalogue()
  history = np.array([1, 2, 7, 8, 4])
  whole = prompts.PromptWriter(items, toys.PROMPT)
  last_two = prompts.PromptWriter(
    items, toys.PROMPT, prompts.PromptLimits(max_items=2)
  )
  np.testing.assert_array_equal(
    whole.user(history),
    tokenization.prompt_tokens(
      toys.PROMPT, [items.tokens(row) for row in history]
    ),
  )
  np.testing.assert_array_equal(
    last_two.user(history), whole.user(history[-2:])
  )
  fitting = prompts.PromptWriter(
    items,
    toys.PROMPT,
    prompts.PromptLimits(max_tokens=len(whole.user(history)) - 1),
  )
  np.testing.assert_array_equal(fitting.user(history), whole.user(history[1:]))


def test_the_usual_length_holds_but_for_a_single_item():
  items = toys.catalogue()
  history = np.array([1, 2, 7, 8, 4])
  whole = prompts.PromptWriter(items, toys.PROMPT)
  two, one = (len(whole.user(history[-length:])) for length in (2, 1))

  def written(usual):
    limits = prompts.PromptLimits(usual_tokens=usual)
    return prompts.PromptWriter(items, toys.PROMPT, limits).user(history)

  np.testing.assert_array_equal(written(two), whole.user(history[-2:]))
  np.testing.assert_array_equal(written(two - 1), whole.user(history[-1:]))
  np.testing.assert_array_equal(written(one - 1), whole.user(history[-1:]))


@pytest.mark.parametrize(
  "name", ["max_tokens", "usual_tokens", "max_items", "smallest_length"]
)
def test_settings_are_checked(name):
  with pytest.raises(ValueError, match=rf"PromptLimits\.{name} = 0"):
    prompts.PromptLimits(**{name: 0})


FEED = feed.Feed(row_tokens=64, row_slots=4, rows=2, max_history=7)


@pytest.mark.parametrize(
  ("bound", "wanted"),
  [
    ({}, (64, 48, 7)),
    ({"max_tokens": 40}, (40, 40, 7)),
    ({"max_tokens": 56, "max_items": 3}, (56, 48, 3)),
    ({"usual_tokens": 20}, (64, 20, 7)),
  ],
)
def test_what_is_not_bound_follows_from_the_feed(bound, wanted):
  for name, value in bound.items():
    gin.bind_parameter(f"PromptLimits.{name}", value)
  limits = prompts.prompt_limits(FEED)
  gin.clear_config()
  assert (limits.max_tokens, limits.usual_tokens, limits.max_items) == wanted


def test_prompts_longer_than_what_was_trained_on_are_refused():
  gin.bind_parameter("PromptLimits.max_tokens", 65)
  with pytest.raises(ValueError, match=r"max_tokens = 65.*row_tokens = 64"):
    prompts.prompt_limits(FEED)
  gin.clear_config()


def test_items_are_described_by_their_kinds_and_purchases_are_asked_for():
  prompt = PromptTokens(
    begin=1,
    end=toys.END,
    prefix=(3,),
    first=(4,),
    next=(5, 5),
    first_of_kind=((6,), (4,)),
    next_of_kind=((7,), (5, 5)),
  )
  catalogue = toys.catalogue()
  items = EventItems(np.array([0, 1, 2]), np.array([0, 1, 0], np.int8))
  a, b, c = (catalogue.tokens(row).tolist() for row in range(3))
  writer = prompts.PromptWriter(catalogue, prompt)
  assert writer.user(items).tolist() == [
    *(1, 3, 6, *a, 5, 5, *b, 7, *c, 5, 5),
  ]
  # What precedes a first item is not of its kind, but of the one asked for.
  assert writer.user(np.zeros(0, np.int32)).tolist() == [1, 3, 4]
  newest = prompts.PromptWriter(
    catalogue, prompt, prompts.PromptLimits(max_items=2)
  )
  assert newest.user(items).tolist() == [1, 3, 4, *b, 7, *c, 5, 5]
  shortest = [1, 3, 6, *c, 5, 5]
  for limits in (
    {"max_tokens": len(shortest)},
    {"max_tokens": 99, "usual_tokens": len(shortest) - 1},
  ):
    limits = prompts.PromptLimits(**limits)
    found = prompts.PromptWriter(catalogue, prompt, limits).user(items)
    assert found.tolist() == shortest
  with pytest.raises(ValueError, match="every item of a history needs one"):
    writer.user(np.array([0, 1]))
