"""The modules of a decoder layer, with logical axes on every parameter."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from calrec_jax.models import fsdp
from calrec_jax.models.lora import Lora
from calrec_jax.runtime.partitioning import constrain

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "silu": jax.nn.silu,
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


def parameter(
  module: nn.Module,
  name: str,
  initialise: Callable[..., jax.Array],
  shape: Sequence[int],
  axes: Sequence[str | None],
  dtype: Any,
) -> jax.Array:
  """Declares a parameter with logical axes."""
  boxed: Any = nn.with_logical_partitioning(initialise, tuple(axes))
  return module.param(name, boxed, tuple(shape), dtype)


def gather_output(
  weights: jax.Array, axes: Sequence[str | None], dtype: Any
) -> jax.Array:
  """Output weights in `dtype`, gathered over every axis but the vocabulary."""
  weights = constrain(weights, *axes).astype(dtype)
  return constrain(
    weights, *(axis if axis == "vocab" else None for axis in axes)
  )


class RMSNorm(nn.Module):
  """Root-mean-square norm in float32; the scale is a plain multiplier.

  Attributes:
    eps: Epsilon added to the mean square.
  """

  eps: float

  @nn.compact
  def __call__(self, x: Float[Array, "*batch F"]) -> Float[Array, "*batch F"]:
    """Normalises the last axis; the dtype stays the same."""
    scale = parameter(
      self, "scale", nn.initializers.ones, x.shape[-1:], ("norm",), jnp.float32
    )
    wide = x.astype(jnp.float32)
    square = jnp.mean(wide * wide, axis=-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(square + self.eps)
    return (wide * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


class Projection(nn.Module):
  """A linear map of the last axes of its input, without bias.

  Attributes:
    shape: Shape of the kernel: input axes, then output axes.
    axes: Logical axes of the kernel.
    dtype: Dtype of the product.
    param_dtype: Dtype of the kernel.
    num_inputs: Number of input axes of the kernel.
    lora: Settings of the low-rank adapter, or None.
  """

  shape: Sequence[int]
  axes: Sequence[str]
  dtype: Any
  param_dtype: Any = jnp.float32
  num_inputs: int = 1
  lora: Lora | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Applies the map."""
    inputs = tuple(range(self.num_inputs))
    outputs = tuple(range(self.num_inputs, len(self.shape)))
    initialise = nn.initializers.variance_scaling(
      1.0, "fan_in", "truncated_normal", in_axis=inputs, out_axis=outputs
    )
    kernel = parameter(
      self, "kernel", initialise, self.shape, self.axes, self.param_dtype
    )
    batch = x.shape[: -self.num_inputs]
    # Rows and tokens as one axis: the kernel's gradient then sums over one
    # axis, which is twice as fast on CPUs.
    x = x.astype(self.dtype).reshape(-1, *self.shape[: self.num_inputs])
    flat = fsdp.product(
      x, kernel, self.axes, self.dtype, num_inputs=self.num_inputs
    )
    if self.lora is not None and self.name in self.lora.targets:
      flat = flat + self._low_rank(x, self.lora)
    return flat.reshape(*batch, *self.shape[self.num_inputs :])

  def _low_rank(
    self, x: Float[Array, "..."], lora: Lora
  ) -> Float[Array, "..."]:
    """(alpha / rank) (x A) B; see `calrec_jax.models.lora`."""
    split = self.num_inputs
    # Uniform within 1 / sqrt(inputs), as in the authors' code.
    initialise = nn.initializers.variance_scaling(
      1 / 3, "fan_in", "uniform", in_axis=tuple(range(split)), out_axis=split
    )

    def factor(
      name: str, initialise: Any, shape: Sequence[int], axes: Sequence[str]
    ) -> jax.Array:
      matrix = parameter(self, name, initialise, shape, axes, self.param_dtype)
      return constrain(matrix, *axes).astype(self.dtype)

    a = factor(
      "lora_a",
      initialise,
      (*self.shape[:split], lora.rank),
      (*self.axes[:split], "lora_rank"),
    )
    b = factor(
      "lora_b",
      nn.initializers.zeros,
      (lora.rank, *self.shape[split:]),
      ("lora_rank", *self.axes[split:]),
    )
    narrow = jnp.tensordot(x, a, axes=split)
    return lora.scaling * jnp.tensordot(narrow, b, axes=1)


class GatedMlp(nn.Module):
  """SwiGLU or GeGLU: `wo(activation(wi_0 x) * wi_1 x)`.

  Attributes:
    width: Width of the model, D.
    hidden: Hidden width.
    activation: Name in `ACTIVATIONS`.
    dtype: Dtype of the products.
    param_dtype: Dtype of the kernels.
    lora: See `Projection`.
  """

  width: int
  hidden: int
  activation: str
  dtype: Any
  param_dtype: Any = jnp.float32
  lora: Lora | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """Applies the layer."""
    projection = functools.partial(
      Projection,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      lora=self.lora,
    )
    into = [
      projection((self.width, self.hidden), ("embed", "mlp"), name=name)
      for name in ("wi_0", "wi_1")
    ]
    hidden = ACTIVATIONS[self.activation](into[0](x)) * into[1](x)
    hidden = constrain(
      hidden, "activation_batch", "activation_length", "activation_mlp"
    )
    return projection((self.hidden, self.width), ("mlp", "embed"), name="wo")(
      hidden
    )
