"""Losses and metrics as sums with weights.

Sums and weights are added over chunks, devices and batches and divided once:
no mean is ever a mean of means.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class WeightedSum(NamedTuple):
  """A sum and the weight to divide it by.

  Attributes:
    total: float32 scalar, the weighted sum.
    weight: float32 scalar, the sum of the weights.
  """

  total: jax.Array | np.ndarray | float
  weight: jax.Array | np.ndarray | float

  def merge(self, other: WeightedSum) -> WeightedSum:
    """The sum over both."""
    return WeightedSum(self.total + other.total, self.weight + other.weight)

  def mean(self) -> jax.Array:
    """The weighted mean on the device; 0 for a weight of 0."""
    some = self.weight > 0
    return jnp.where(some, self.total / jnp.where(some, self.weight, 1.0), 0.0)

  def host_mean(self) -> float:
    """The weighted mean as a Python float; NaN for a weight of 0."""
    weight = float(self.weight)
    return float(self.total) / weight if weight else float("nan")
