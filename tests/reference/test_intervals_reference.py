"""Bootstrap intervals against the plain loop that draws users one by one."""

import numpy as np

from calrec_jax.metrics.intervals import Bootstrap

# Two bootstraps with 4,000 resamples each differ by sampling alone; an end of
# an interval is a quantile whose own error is about 2.5% of the width.
SAMPLING = 0.08
EXACT = 1e-12  # float64; only the order of the sum differs.


def plain_bootstrap(values, resamples, seed):
  generator = np.random.default_rng(seed)
  means = []
  for _ in range(resamples):
    drawn = generator.integers(0, len(values), size=len(values))
    means.append(values[drawn].mean(axis=0))
  return np.percentile(np.array(means), [2.5, 97.5], axis=0)


def test_drawing_groups_is_drawing_users():
  generator = np.random.default_rng(1)
  ranks = generator.integers(1, 40, size=300).astype(float)
  values = np.stack([ranks <= 10, 1 / np.log2(ranks + 1)], axis=1)
  values = values.astype(np.float64)
  found = Bootstrap(resamples=4000, seed=2).means(values)
  low, high = plain_bootstrap(values, 4000, seed=3)
  for column, interval in enumerate(found):
    width = high[column] - low[column]
    assert abs(interval.value - values[:, column].mean()) < EXACT
    assert abs(interval.low - low[column]) < SAMPLING * width
    assert abs(interval.high - high[column]) < SAMPLING * width


def test_width_follows_the_standard_error():
  generator = np.random.default_rng(4)
  values = generator.random((2000, 1))
  (interval,) = Bootstrap(resamples=4000).means(values)
  expected = 2 * 1.959964 * values.std() / np.sqrt(len(values))
  assert abs(interval.high - interval.low - expected) < SAMPLING * expected


def test_ninety_five_percent_of_intervals_hold_the_truth():
  generator = np.random.default_rng(5)
  truth, trials = 0.3, 400
  bootstrap = Bootstrap(resamples=400)
  held = 0
  for _ in range(trials):
    values = (generator.random((200, 1)) < truth).astype(np.float64)
    (interval,) = bootstrap.means(values)
    held += interval.low <= truth <= interval.high
  # Four standard errors of a fraction of .95 over the trials, plus the
  # percentile method's known shortfall of about a percent.
  assert abs(held / trials - 0.95) < 4 * np.sqrt(0.95 * 0.05 / trials) + 0.01


def test_paired_differences_are_narrower_than_two_intervals():
  generator = np.random.default_rng(6)
  base = generator.random((500, 1))
  better = base + 0.01
  bootstrap = Bootstrap()
  (paired,) = bootstrap.differences(better, base)
  (left,), (right,) = bootstrap.means(better), bootstrap.means(base)
  assert paired.low > 0
  assert left.low < right.high
