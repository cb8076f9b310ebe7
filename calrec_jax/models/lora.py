"""LoRA: a trained low-rank product added to a frozen kernel.

Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models"
(arXiv 2106.09685), equation 3:

    h = x W + (alpha / rank) (x A) B

B starts at zero, so that training starts from the unchanged model. `Projection`
computes the product; this module has its settings and the functions on
parameter trees with `lora_a` and `lora_b` next to `kernel`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Float

from calrec_jax.errors import InputError, above, at_least, check, some_of

TARGETS = ("query", "key", "value", "out", "wi_0", "wi_1", "wo")
LEAVES = ("lora_a", "lora_b")


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
  """Which projections get the two matrices, and their size.

  Attributes:
    rank: Columns of A and rows of B.
    alpha: Numerator of the product's factor, alpha / rank; twice the rank keeps
      the update's size when the rank is changed.
    targets: Names of projections, from `TARGETS`.
  """

  rank: int = 16
  alpha: float = 32.0
  targets: Sequence[str] = TARGETS

  def __post_init__(self):
    check(self, rank=at_least(1), alpha=above(0), targets=some_of(*TARGETS))
    # A tuple, as a module's configuration is hashed, and in one order.
    targets = tuple(name for name in TARGETS if name in self.targets)
    object.__setattr__(self, "targets", targets)

  @property
  def scaling(self) -> float:
    """Factor of the product, alpha / rank."""
    return self.alpha / self.rank


def without_lora(params: Any) -> Any:
  """The tree without LoRA's leaves."""
  return _select(params, lora=False)


def lora_leaves(params: Any) -> Any:
  """LoRA's leaves alone; an empty tree where there are none."""
  return _select(params, lora=True)


def fill_missing(params: Any, fresh: Any) -> Any:
  """The tree `params`, with missing LoRA leaves taken from `fresh`.

  Args:
    params: Parameters, possibly without LoRA's.
    fresh: All parameters of the model, freshly initialised.
  """
  flat = traverse_util.flatten_dict(lora_leaves(fresh))
  return traverse_util.unflatten_dict(flat | traverse_util.flatten_dict(params))


def merge_lora(params: Any, config: Any) -> Any:
  """Parameters of the equivalent plain model: W + (alpha / rank) A B.

  Can be jitted; every product is sharded as its kernel, since A is split along
  the kernel's input axes and B along its output axes.

  Args:
    params: Unboxed parameters of a decoder, with or without LoRA.
    config: The `DecoderConfig` with `lora`.

  Returns:
    The tree without LoRA's leaves; kernels keep their dtype.
  """
  flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(params)
  merged = {path: leaf for path, leaf in flat.items() if path[-1] not in LEAVES}
  for path, a in flat.items():
    if path[-1] == "lora_a":
      if config.lora is None:
        raise InputError(
          f"The parameters contain {'/'.join(path)}, but DecoderConfig.lora is "
          "None, so its scaling is unknown. Bind DecoderConfig.lora = @Lora()."
        )
      kernel, b = ((*path[:-1], name) for name in ("kernel", "lora_b"))
      merged[kernel] = _merged(flat[kernel], a, flat[b], config.lora.scaling)
  return traverse_util.unflatten_dict(merged)


def _merged(
  kernel: Float[Array, "..."],
  a: Float[Array, "..."],
  b: Float[Array, "..."],
  scaling: float,
) -> Float[Array, "..."]:
  dtype = kernel.dtype

  def product(a: jax.Array, b: jax.Array) -> jax.Array:
    # By default TPUs would round float32 factors to bfloat16, permanently.
    return jnp.tensordot(a, b, axes=1, precision=jax.lax.Precision.HIGHEST)

  kernel, a, b = (leaf.astype(jnp.float32) for leaf in (kernel, a, b))
  if a.ndim + b.ndim - 2 > kernel.ndim:  # A leading axis of layers.
    product = jax.vmap(product)
  return (kernel + scaling * product(a, b)).astype(dtype)


def _select(params: Any, *, lora: bool) -> Any:
  flat = traverse_util.flatten_dict(params)
  chosen = {path: flat[path] for path in flat if (path[-1] in LEAVES) == lora}
  return traverse_util.unflatten_dict(chosen)
