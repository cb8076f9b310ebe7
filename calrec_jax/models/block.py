"""One decoder layer, as the scan over layers sees it."""

from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from calrec_jax.models import attention, rope
from calrec_jax.models.layers import GatedMlp, Projection, RMSNorm
from calrec_jax.partitioning import constrain


class KeyValue(NamedTuple):
  """Keys and values, of one layer or with a leading axis of all layers.

  Attributes:
    keys: [..., K, F], rotated.
    values: [..., K, F].
  """

  keys: jax.Array
  values: jax.Array


@flax.struct.dataclass
class View:
  """What all layers share: rotations and masks of each kind of layer.

  Attributes:
    rotations: cosine and sine, for global layers and, where there are any,
      for local ones.
    masks: likewise, one mask for each part of the keys.
    keep: whether layers hand out their keys and values.
    deterministic: whether dropout is off.
  """

  rotations: tuple[tuple[jax.Array, jax.Array], ...]
  masks: tuple[tuple[jax.Array, ...], ...]
  keep: bool = flax.struct.field(pytree_node=False)
  deterministic: bool = flax.struct.field(pytree_node=False)

  def of(self, kind: jax.Array) -> tuple[Any, Any]:
    """Rotation and masks of a layer whose kind is known on the device only."""
    if len(self.masks) == 1:
      return self.rotations[0], self.masks[0]
    return jax.tree.map(
      lambda whole, local: jnp.where(kind == 0, whole, local),
      (self.rotations[0], self.masks[0]),
      (self.rotations[1], self.masks[1]),
    )


class Attention(nn.Module):
  """Grouped-query attention with rotary positions.

  Attributes:
    config: a `DecoderConfig`.
  """

  config: Any

  @nn.compact
  def __call__(
    self, x: Float[Array, "B L D"], per_layer: Any, view: View
  ) -> tuple[Float[Array, "B L D"], KeyValue | None]:
    """Attends within rows, or to a prefix and the samples after it.

    Args:
      x: normalised input.
      per_layer: the layer's kind, and None or (prefix, samples).
      view: what all layers share.
    """
    config = self.config
    kind, cached = per_layer
    rotation, masks = view.of(kind)
    query = self._heads("query", config.heads, "heads", x)
    key = self._heads("key", config.kv_heads, "kv_heads", x)
    value = self._heads("value", config.kv_heads, "kv_heads", x)
    if config.qk_norm:
      query = RMSNorm(config.norm_eps, name="query_norm")(query)
      key = RMSNorm(config.norm_eps, name="key_norm")(key)
    query, key = (rope.rotate(part, *rotation) for part in (query, key))
    if cached is None:
      parts = [(key, value, masks[0])]
    else:
      # Of a new token, the prompt, the continuation so far, and itself.
      pairs = [*cached, KeyValue(key[:, :, None], value[:, :, None])]
      parts = [(*pair, mask) for pair, mask in zip(pairs, masks, strict=True)]
    query = constrain(
      query, "activation_batch", "activation_length", "activation_heads", "kv"
    )
    output = attention.attend_parts(
      query,
      parts,
      scale=config.attention_scale or config.head_dim**-0.5,
      softcap=config.attention_softcap,
    )
    output = Projection(
      "...hf,hfd->...d",
      (config.heads, config.head_dim, config.width),
      ("heads", "kv", "embed"),
      (0, 1),
      jnp.dtype(config.dtype),
      jnp.dtype(config.param_dtype),
      name="out",
    )(output)
    return output, KeyValue(key, value) if view.keep else None

  def _heads(self, name: str, heads: int, axis: str, x: Array) -> Array:
    config = self.config
    return Projection(
      "...d,dhf->...hf",
      (config.width, heads, config.head_dim),
      ("embed", axis, "kv"),
      (0,),
      jnp.dtype(config.dtype),
      jnp.dtype(config.param_dtype),
      name=name,
    )(x)


class Block(nn.Module):
  """Attention and feed-forward, each on a normalised copy of the stream.

  Attributes:
    config: a `DecoderConfig`.
  """

  config: Any

  @nn.compact
  def __call__(
    self, x: Float[Array, "B L D"], per_layer: Any, view: View
  ) -> tuple[Float[Array, "B L D"], KeyValue | None]:
    """Adds both parts to the stream; see `Attention` for the arguments."""
    config = self.config
    update, kept = Attention(config, name="attention")(
      self._norm("pre_attention_norm", x), per_layer, view
    )
    x = x + self._finish("post_attention_norm", update, view)
    mlp = GatedMlp(
      config.width,
      config.mlp_width,
      config.activation,
      jnp.dtype(config.dtype),
      jnp.dtype(config.param_dtype),
      name="mlp",
    )
    update = mlp(self._norm("pre_mlp_norm", x))
    x = x + self._finish("post_mlp_norm", update, view)
    x = constrain(
      x, "activation_batch", "activation_length", "activation_embed"
    )
    return x, kept

  def _norm(self, name: str, x: Array) -> Array:
    return RMSNorm(self.config.norm_eps, name=name)(x)

  def _finish(self, name: str, update: Array, view: View) -> Array:
    if self.config.post_norms:
      update = self._norm(name, update)
    if self.config.dropout:
      update = nn.Dropout(self.config.dropout)(update, view.deterministic)
    return update
