"""Averaging of parameters, so that training may end well at any step."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin
import jax

from calrec_jax.errors import at_least, check


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Averaging:
  """A mean of the parameters over the last part of the training.

  Step t has the weight t ** exponent, so that the mean reaches back over about
  the last 1 / (exponent + 1) of all steps, whenever it is taken (polynomial-
  decay averaging; Shamir and Zhang, ICML 2013). At a constant learning rate it
  takes the place of a decay, without an end that has to be known before
  (Hägele et al., NeurIPS 2024): training may stop at any step, or go on.

  Attributes:
    exponent: 8 averages the last ninth.
  """

  exponent: float = 8.0

  def __post_init__(self):
    check(self, exponent=at_least(0))

  def update(self, average: Any, params: Any, step: jax.Array) -> Any:
    """The mean after one more step.

    Args:
      average: Mean before it.
      params: Parameters after it.
      step: Its number, from 1.
    """
    weight = (self.exponent + 1) / (step + self.exponent)
    return jax.tree.map(
      lambda old, new: old + weight.astype(old.dtype) * (new - old),
      average,
      params,
    )
