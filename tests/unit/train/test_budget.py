"""The clock of a stage: what it plans, when it ends, what is saved of it."""

import pytest

from calrec_jax.errors import InputError
from calrec_jax.train import budget as budgets
from calrec_jax.train.budget import Budget


class Clock:
  now = 0.0

  def __call__(self):
    return self.now


def train(budget, clock, *, step=0.5, validation=0.0, compiling=10.0):
  """Trains until the budget is over; returns the steps and the parts."""
  steps = parts = 0
  clock.now += compiling
  while True:
    clock.now += step
    steps += 1
    if budget.measures and (seconds := budget.step()):
      budget.begin(budget.plan(seconds))
    if budget.period and steps % budget.period == 0:
      clock.now += validation
      budget.took(validation)
      budget.part_over()
      parts += 1
      if budget.is_over:
        return steps, parts


@pytest.mark.parametrize("validation", [0.0, 2.0])
@pytest.mark.parametrize("minutes", [2, 30])
def test_it_ends_about_when_the_time_is_over(minutes, validation):
  clock = Clock()
  budget = Budget(60.0 * minutes, clock)
  budget.took(validation)
  _, parts = train(budget, clock, validation=validation)
  assert clock.now == pytest.approx(60 * minutes, rel=0.1)
  assert 8 <= parts <= 12


def test_expensive_validations_are_fewer():
  clock = Clock()
  budget = Budget(600.0, clock)
  budget.took(20.0)
  _, parts = train(budget, clock, validation=20.0)
  assert 3 <= parts <= 5
  assert clock.now == pytest.approx(600, rel=0.2)


def test_steps_that_outlast_the_budget_still_end():
  clock = Clock()
  steps, _ = train(Budget(5.0, clock), clock, step=30.0)
  assert steps <= 3


def test_a_resumed_stage_has_the_same_parts_and_the_rest_of_the_time():
  clock = Clock()
  budget = Budget(1000.0, clock)
  clock.now += 100
  budget.begin(40)
  clock.now += 300
  budget.part_over()
  later = Budget(1000.0, clock)
  later.resume(budget.state())
  assert (later.period, later.measures) == (40, False)
  assert later.used() == pytest.approx(400)
  clock.now += 400
  assert not later.is_over
  clock.now += 100  # Another part of 300 s would exceed it by more than half.
  assert later.is_over


def test_a_larger_budget_goes_on():
  clock = Clock()
  budget = Budget(100.0, clock)
  clock.now += 100
  assert budget.is_over
  later = Budget(400.0, clock)
  later.resume(budget.state())
  assert not later.is_over


@pytest.mark.parametrize(
  ("text", "seconds"),
  [
    ("90 s", 90),
    ("30 min", 1800),
    ("30min", 1800),
    ("1 minute", 60),
    ("2 h", 7200),
    ("1.5 hours", 5400),
    ("4 days", 345_600),
  ],
)
def test_durations(text, seconds):
  assert budgets.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "min", "-1 h", "0 s", "3 days ago"])
def test_what_is_no_duration_is_refused(text):
  with pytest.raises(InputError, match=r"TRAIN_BUDGET = .* write '90 s'"):
    budgets.seconds_of(text)


def test_the_estimate_says_passes_and_what_one_takes():
  clock = Clock()
  budget = Budget(600.0, clock)
  budget.begin(100)
  line = budgets.estimate(0.5, budget, steps_per_pass=240)
  assert line == (
    "0.5 s a step: about 1,200 steps or 5 passes over the data in 10 min; a "
    "pass takes 2 min; validated every 100 steps"
  )


def test_the_estimate_names_the_budget_of_all_stages_that_share_it():
  clock = Clock()
  budget = Budget(60.0, clock)
  budget.begin(100)
  line = budgets.estimate(1.0, budget, steps_per_pass=3000, share=0.5)
  named = line.split("TRAIN_BUDGET = '")[1].split("'")[0]
  assert budgets.seconds_of(named) == pytest.approx(6000, rel=0.05)


def test_many_passes_are_whole_numbers():
  budget = Budget(600.0, Clock())
  budget.begin(100)
  line = budgets.estimate(0.5, budget, steps_per_pass=5)
  assert "or 240 passes over" in line


def test_the_estimate_of_a_log_that_is_too_large_says_what_it_wants():
  clock = Clock()
  budget = Budget(600.0, clock)
  budget.begin(100)
  line = budgets.estimate(0.5, budget, steps_per_pass=240_000)
  assert "0.005 passes" in line
  assert "TRAIN_BUDGET = '33.3 h' would be one pass; a GPU or TPU" in line
