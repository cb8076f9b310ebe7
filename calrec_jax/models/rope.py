"""Rotary position embeddings (Su et al., 2021) and their scaling."""

import dataclasses
import math

import gin
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from calrec_jax.errors import check, one_of


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
  """How frequencies are scaled beyond the trained context length.

  Attributes:
    kind: Kind of scaling: "linear" divides all frequencies (Gemma 3 from 4B
      on), "llama3" only the low ones (Llama 3.1 and 3.2).
    factor: Divisor of the scaled frequencies.
    low_frequency_factor: llama3: wavelengths above `original_length` over this
      factor are fully scaled.
    high_frequency_factor: llama3: wavelengths below `original_length` over this
      factor are not scaled.
    original_length: Context length in tokens before scaling.
  """

  kind: str = "llama3"
  factor: float = 8.0
  low_frequency_factor: float = 1.0
  high_frequency_factor: float = 4.0
  original_length: int = 8192

  def __post_init__(self):
    check(self, kind=one_of("linear", "llama3"))


def frequencies(
  head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> np.ndarray:
  """Radians per position of each feature pair, float32[head_dim / 2]."""
  exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
  plain = theta**-exponents
  if scaling is None:
    return plain.astype(np.float32)
  if scaling.kind == "linear":
    return (plain / scaling.factor).astype(np.float32)
  length = scaling.original_length
  low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
  wave = 2 * math.pi / plain
  # 0 for long wavelengths (fully scaled), 1 for short ones.
  unscaled = np.clip((length / wave - low) / (high - low), 0.0, 1.0)
  return ((1 - unscaled) * plain / scaling.factor + unscaled * plain).astype(
    np.float32
  )


def rotation(
  positions: Int[Array, "*batch"], radians: np.ndarray
) -> tuple[Float[Array, "*batch pairs"], Float[Array, "*batch pairs"]]:
  """Cosine and sine of every position and feature pair, float32."""
  angles = positions[..., None].astype(jnp.float32) * radians.reshape(
    (1,) * positions.ndim + (-1,)
  )
  return jnp.cos(angles), jnp.sin(angles)


def rotate(
  features: Float[Array, "*batch H F"],
  cosine: Float[Array, "*batch pairs"],
  sine: Float[Array, "*batch pairs"],
) -> Float[Array, "*batch H F"]:
  """Rotates feature i with feature i + F/2, as both model families do."""
  first, second = jnp.split(features.astype(jnp.float32), 2, axis=-1)
  cosine, sine = cosine[..., None, :], sine[..., None, :]
  turned = jnp.concatenate(
    [first * cosine - second * sine, second * cosine + first * sine], axis=-1
  )
  return turned.astype(features.dtype)
