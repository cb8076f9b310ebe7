"""The pieces of a decoder layer, with logical axes on every parameter.

Nothing here knows of caches, towers or losses.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from calrec_jax.partitioning import constrain

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "silu": jax.nn.silu,
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


class RMSNorm(nn.Module):
  """Root-mean-square norm in float32; the scale multiplies as it is stored.

  Attributes:
    eps: added to the mean square.
    axis: logical axis of the scale.
    param_dtype: of the scale.
  """

  eps: float
  axis: str = "norm"
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*batch F"]) -> Float[Array, "*batch F"]:
    """Normalises the last axis; keeps the dtype."""
    scale = self.param(
      "scale",
      nn.with_logical_partitioning(nn.initializers.ones, (self.axis,)),
      (x.shape[-1],),
      self.param_dtype,
    )
    wide = x.astype(jnp.float32)
    square = jnp.mean(wide * wide, axis=-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(square + self.eps)
    return (wide * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


class Projection(nn.Module):
  """A linear map as one einsum, without bias.

  Attributes:
    equation: of input and kernel, such as "...d,dhf->...hf".
    shape: of the kernel.
    axes: logical axes of the kernel.
    inputs: kernel dimensions that are summed over, for the initial scale.
    dtype: of the product.
    param_dtype: of the kernel.
  """

  equation: str
  shape: Sequence[int]
  axes: Sequence[str]
  inputs: Sequence[int]
  dtype: Any
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Applies the map."""
    outputs = [i for i in range(len(self.shape)) if i not in self.inputs]
    initialise = nn.initializers.variance_scaling(
      1.0, "fan_in", "truncated_normal", in_axis=self.inputs, out_axis=outputs
    )
    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(initialise, tuple(self.axes)),
      tuple(self.shape),
      self.param_dtype,
    )
    return jnp.einsum(
      self.equation, x.astype(self.dtype), kernel.astype(self.dtype)
    )


class GatedMlp(nn.Module):
  """SwiGLU or GeGLU: `wo(activation(wi_0 x) * wi_1 x)`.

  Attributes:
    width: of the model, D.
    hidden: width in between.
    activation: a name of `ACTIVATIONS`.
    dtype: of the products.
    param_dtype: of the kernels.
  """

  width: int
  hidden: int
  activation: str
  dtype: Any
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """Applies the layer."""
    into = [
      Projection(
        "...d,dm->...m",
        (self.width, self.hidden),
        ("embed", "mlp"),
        (0,),
        self.dtype,
        self.param_dtype,
        name=name,
      )
      for name in ("wi_0", "wi_1")
    ]
    hidden = ACTIVATIONS[self.activation](into[0](x)) * into[1](x)
    hidden = constrain(
      hidden, "activation_batch", "activation_length", "activation_mlp"
    )
    return Projection(
      "...m,md->...d",
      (self.hidden, self.width),
      ("mlp", "embed"),
      (0,),
      self.dtype,
      self.param_dtype,
      name="wo",
    )(hidden)
