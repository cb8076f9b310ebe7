"""LoRA: a trained product of two thin matrices beside a frozen kernel.

Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models"
(arXiv 2106.09685), equation 3:

    h = x W + (alpha / rank) (x A) B

B starts at zero, so that training starts from the model as it is. `Projection`
computes it; here are its settings, and what is done with trees that hold
`lora_a` and `lora_b` beside `kernel`.
"""

import dataclasses
from collections.abc import Callable, Sequence
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
  """Which projections get the two matrices, and how large they are.

  Attributes:
    rank: columns of A and rows of B.
    alpha: the product is multiplied by alpha / rank; with twice the rank size
      itself the update stays as large when the rank is changed.
    targets: names of projections, of `TARGETS`.
  """

  rank: int = 16
  alpha: float = 32.0
  targets: Sequence[str] = TARGETS

  def __post_init__(self):
    """Refuses what changes no projection."""
    check(self, rank=at_least(1), alpha=above(0), targets=some_of(*TARGETS))
    # A tuple, as a module's configuration is hashed, and in one order.
    targets = tuple(name for name in TARGETS if name in self.targets)
    object.__setattr__(self, "targets", targets)

  @property
  def scaling(self) -> float:
    """What the product is multiplied by."""
    return self.alpha / self.rank


def without_lora(params: Any) -> Any:
  """The tree without the leaves of LoRA."""
  return _only(params, lambda name: name not in LEAVES)


def lora_leaves(params: Any) -> Any:
  """The leaves of LoRA alone; an empty tree where there are none."""
  return _only(params, lambda name: name in LEAVES)


def fill_missing(params: Any, fresh: Any) -> Any:
  """The tree `params`, with the leaves of LoRA that it lacks from `fresh`.

  Args:
    params: parameters that may lack those of LoRA.
    fresh: all parameters of the model, newly made.
  """
  flat = traverse_util.flatten_dict(lora_leaves(fresh))
  return traverse_util.unflatten_dict(flat | traverse_util.flatten_dict(params))


def merge_lora(params: Any, config: Any) -> Any:
  """The plain model that computes the same: W + (alpha / rank) A B.

  Can be jitted; every product lies as its kernel does, as A is split along
  the kernel's input axes and B along its output axes.

  Args:
    params: unboxed parameters of a decoder, with or without LoRA.
    config: the `DecoderConfig` with `lora`.

  Returns:
    The tree without the leaves of LoRA, kernels in the dtype they had.
  """
  flat = traverse_util.flatten_dict(params)
  merged = {path: leaf for path, leaf in flat.items() if path[-1] not in LEAVES}
  for path, a in flat.items():
    if path[-1] == "lora_a":
      if config.lora is None:
        raise InputError(
          f"{'/'.join(path)} is there, but DecoderConfig.lora is None, so "
          "that its scaling is not known. Bind DecoderConfig.lora = @Lora()."
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
    # TPUs would round float32 factors to bfloat16, and that for good.
    return jnp.tensordot(a, b, axes=1, precision=jax.lax.Precision.HIGHEST)

  kernel, a, b = (leaf.astype(jnp.float32) for leaf in (kernel, a, b))
  if a.ndim + b.ndim - 2 > kernel.ndim:  # Layers are stacked in front.
    product = jax.vmap(product)
  return (kernel + scaling * product(a, b)).astype(dtype)


def _only(params: Any, keeps: Callable[[str], bool]) -> Any:
  return traverse_util.unflatten_dict(
    {
      path: leaf
      for path, leaf in traverse_util.flatten_dict(params).items()
      if keeps(path[-1])
    }
  )
