"""Confidence intervals of means over users, by the percentile bootstrap.

Users are resampled with replacement, and the middle 95% of the resampled means
is the interval (Efron, 1979). Two recommenders are compared on the same users:
the interval of the mean difference is much narrower than their own intervals.

Users with equal values are interchangeable, so a resample is one multinomial
sample of the sizes of these groups. Ranks have few distinct values, which makes
2,000 resamples of a million users as cheap as of a hundred, and independent of
the order of the users.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import gin
import numpy as np
from jaxtyping import Float

from calrec_jax.errors import at_least, check, within

_CHUNK_COUNTS = 1 << 22  # Counts in memory at once, 32 MiB.


class Interval(NamedTuple):
  """A mean over users with the interval it lies in.

  Attributes:
    value: Mean; NaN if there are no users.
    low: Lower end of the interval.
    high: Upper end of the interval.
  """

  value: float
  low: float
  high: float


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Bootstrap:
  """Bootstrap intervals of means over users.

  Attributes:
    resamples: Number of times the users are resampled.
    confidence: Fraction of the resampled means inside an interval.
    seed: Seed of the resamples.
  """

  resamples: int = 2000
  confidence: float = 0.95
  seed: int = 0

  def __post_init__(self):
    check(self, resamples=at_least(1), confidence=within("(0, 1)"))

  def means(self, values: Float[np.ndarray, "U M"]) -> list[Interval]:
    """The mean of each column with its interval; NaN for no users."""
    num_users, num_metrics = values.shape
    if not num_users or not num_metrics:
      return [Interval(np.nan, np.nan, np.nan)] * num_metrics
    groups, counts = _group_rows(values)
    tail = 100 * (1 - self.confidence) / 2
    resampled = np.concatenate(list(self._resampled_means(groups, counts)))
    low, high = np.percentile(resampled, [tail, 100 - tail], axis=0)
    means = counts @ groups / num_users
    return [
      Interval(float(mean), float(lower), float(upper))
      for mean, lower, upper in zip(means, low, high, strict=True)
    ]

  def differences(
    self, values: Float[np.ndarray, "U M"], reference: Float[np.ndarray, "U M"]
  ) -> list[Interval]:
    """The mean of `values - reference` over the same users, per column."""
    return self.means(values - reference)

  def _resampled_means(
    self, groups: np.ndarray, counts: np.ndarray
  ) -> Iterator[np.ndarray]:
    """Means of resampled users [resamples, M], in chunks."""
    num_users = counts.sum()
    generator = np.random.default_rng(self.seed)
    at_once = max(1, _CHUNK_COUNTS // len(groups))
    for start in range(0, self.resamples, at_once):
      counted = generator.multinomial(
        num_users, counts / num_users, size=min(at_once, self.resamples - start)
      )
      yield counted @ groups / num_users


def _group_rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Distinct rows, sorted, and how often each occurs."""
  ordered = values[np.lexsort(values.T)]
  new = np.ones(len(ordered), bool)
  new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
  starts = np.flatnonzero(new)
  return ordered[starts], np.diff(np.append(starts, len(ordered)))
