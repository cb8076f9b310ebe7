"""Properties of bootstrap intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec_jax.metrics import intervals
from calrec_jax.metrics.intervals import Bootstrap

FLOAT = 1e-12


@given(
  st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=60),
  st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_intervals_hold_the_mean_and_ignore_the_order_of_users(values, random):
  bootstrap = Bootstrap(resamples=200)
  column = np.array(values)[:, None]
  random.shuffle(values)
  shuffled = np.array(values)[:, None]
  (first,), (second,) = bootstrap.means(column), bootstrap.means(shuffled)
  assert (first.low, first.high) == (second.low, second.high)
  assert min(values) - FLOAT <= first.low <= first.high <= max(values) + FLOAT


def test_chunks_do_not_change_the_interval(monkeypatch):
  values = np.random.default_rng(0).random((50, 2))
  whole = Bootstrap(resamples=100).means(values)
  monkeypatch.setattr(intervals, "_CHUNK_COUNTS", 350)
  parts = Bootstrap(resamples=100).means(values)
  np.testing.assert_allclose(np.array(whole), np.array(parts), atol=FLOAT)


def test_no_user_and_one_user():
  empty = Bootstrap().means(np.zeros((0, 2)))
  assert len(empty) == 2
  assert all(np.isnan(interval).all() for interval in empty)
  assert Bootstrap().means(np.array([[0.5]])) == [(0.5, 0.5, 0.5)]


def test_the_seed_decides():
  values = np.random.default_rng(0).random((50, 1))
  one = Bootstrap(seed=1).means(values)
  assert one == Bootstrap(seed=1).means(values)
  assert one != Bootstrap(seed=2).means(values)


def test_a_wider_confidence_is_a_wider_interval():
  values = np.random.default_rng(0).random((50, 1))
  (narrow,) = Bootstrap(confidence=0.5).means(values)
  (wide,) = Bootstrap(confidence=0.99).means(values)
  assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(
  ("field", "value"),
  [("resamples", 0), ("confidence", 0.0), ("confidence", 95.0)],
)
def test_impossible_settings_name_their_binding(field, value):
  with pytest.raises(ValueError, match=f"Bootstrap.{field}"):
    Bootstrap(**{field: value})
