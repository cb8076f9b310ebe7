"""When a stage stops, and that what it remembers is all it needs."""

import pytest

from calrec_jax.train.checkpointing import CheckpointPolicy
from calrec_jax.train.early_stopping import EarlyStopping

VALUES = [0.1, 0.3, 0.2, 0.3, 0.4, 0.1, 0.2, 0.3, 0.9]


def patient(patience, **policy):
  rank = CheckpointPolicy(best_metric="m", **policy).rank
  return EarlyStopping(patience, rank)


def update_all(stopping, values, first=0):
  """Whether each was better, up to the end."""
  seen = []
  for step, value in enumerate(values, start=first):
    seen.append(stopping.update({"m": value}, step))
    if stopping.is_over:
      break
  return seen


def test_stops_after_so_many_that_were_not_the_best():
  stopping = patient(3)
  # Equal is not better.
  assert update_all(stopping, VALUES) == [
    *(True, True, False, False, True),
    *(False, False, False),
  ]
  assert (stopping.best, stopping.best_step) == (0.4, 4)


def test_the_lowest_may_be_the_best():
  stopping = patient(2, best_is_highest=False)
  assert update_all(stopping, VALUES) == [True, False, False]


def test_without_patience_nothing_is_remembered():
  stopping = patient(None)
  assert update_all(stopping, VALUES) == [False] * len(VALUES)
  assert stopping.state() is None


@pytest.mark.parametrize("killed", range(1, 8))
def test_resumes_to_the_same_end(killed):
  straight = patient(3)
  expected = update_all(straight, VALUES)
  before = patient(3)
  seen = update_all(before, VALUES[:killed])
  after = patient(3)
  after.resume(before.state())
  seen += update_all(after, VALUES[killed:], first=killed)
  assert seen == expected
  assert after.state() == straight.state()
