"""One decoder layer, the body of the scan over layers."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from calrec_jax.models import attention, rope, splash
from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.models.layers import GatedMlp, Projection, RMSNorm
from calrec_jax.runtime.partitioning import constrain

# Longer than any segment.
_NO_WINDOW = 2**30


class KeyValue(NamedTuple):
  """Keys and values of one layer, or stacked over layers.

  Attributes:
    keys: Rotated keys, [..., K, F].
    values: Values, [..., K, F].
  """

  keys: jax.Array
  values: jax.Array


@flax.struct.dataclass
class Packed:
  """Rows of segments; see `Batch`.

  Attributes:
    positions: int32[R, L], position of each token in its segment.
    segment_ids: int32[R, L], segment of each token.
  """

  positions: jax.Array
  segment_ids: jax.Array


@flax.struct.dataclass
class Continued:
  """One new token for each continuation of a prompt.

  Attributes:
    step: int32 scalar, tokens of each continuation before the new one.
    prefix_lengths: int32[B], tokens of each prompt.
  """

  step: jax.Array
  prefix_lengths: jax.Array


@flax.struct.dataclass
class Branched:
  """New tokens on G branches of every prompt's tree; see `attend_branches`.

  Attributes:
    depths: int32[B, G], tokens of each branch before the new ones.
    prefix_lengths: int32[B], tokens of each prompt.
    ancestors: bool[B, G, N], which tokens of the tree are ancestors on each
      branch; None without a tree.
    tree_depths: int32[B, N], tokens before each of the tree's tokens on its
      branch.
    used: int32 scalar, number of leading slots of the tree in use.
  """

  depths: jax.Array
  prefix_lengths: jax.Array
  ancestors: jax.Array | None = None
  tree_depths: jax.Array | None = None
  used: jax.Array | None = None


@flax.struct.dataclass
class View:
  """Inputs shared by all layers; tuples have one entry per kind of layer.

  Attributes:
    layout: How the tokens are arranged.
    rotations: Cosine and sine of the rotary embedding.
    windows: Maximum number of keys a query attends to, or None.
    return_kv: Whether layers return their keys and values.
    deterministic: Whether dropout is off.
  """

  layout: Packed | Continued | Branched
  rotations: tuple[tuple[jax.Array, jax.Array], ...]
  windows: tuple[int | None, ...] = flax.struct.field(pytree_node=False)
  return_kv: bool = flax.struct.field(pytree_node=False)
  deterministic: bool = flax.struct.field(pytree_node=False)

  def of(self, kind: jax.Array) -> tuple[Any, Any]:
    """Rotation and window of a layer whose kind is a traced value."""
    if len(self.windows) == 1:
      return self.rotations[0], self.windows[0]
    rotation = jax.tree.map(
      functools.partial(jnp.where, kind == 0), *self.rotations
    )
    local = self.windows[1]
    assert local is not None  # The second kind of layer is the local one.
    return rotation, jnp.where(kind == 0, _NO_WINDOW, local)


class Attention(nn.Module):
  """Grouped-query attention with rotary positions.

  Attributes:
    config: The `DecoderConfig`.
  """

  config: DecoderConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "B L D"], per_layer: Any, view: View
  ) -> tuple[Float[Array, "B L D"], KeyValue | None]:
    """Attends within rows, or to a prefix and its continuations.

    Args:
      x: Normalised input.
      per_layer: Kind of the layer, and its cached keys and values: None,
        (prefix, continuations) or (prefix, tree).
      view: Inputs shared by all layers.
    """
    config = self.config
    project = functools.partial(
      Projection,
      dtype=jnp.dtype(config.dtype),
      param_dtype=jnp.dtype(config.param_dtype),
      lora=config.lora,
    )
    kind, cached = per_layer
    rotation, window = view.of(kind)
    query, key, value = (
      project((config.width, heads, config.head_dim), axes, name=name)(x)
      for name, heads, axes in (
        ("query", config.heads, ("embed", "heads", "kv")),
        ("key", config.kv_heads, ("embed", "kv_heads", "kv")),
        ("value", config.kv_heads, ("embed", "kv_heads", "kv")),
      )
    )
    if config.qk_norm:
      query = RMSNorm(config.norm_eps, name="query_norm")(query)
      key = RMSNorm(config.norm_eps, name="key_norm")(key)
    query, key = (rope.rotate(part, *rotation) for part in (query, key))
    query = constrain(
      query, "activation_batch", "activation_length", "activation_heads", "kv"
    )
    layout = view.layout
    bounds = {
      "scale": config.attention_scale or config.head_dim**-0.5,
      "softcap": config.attention_softcap,
    }
    if isinstance(layout, Branched):
      output = _attend_branches(
        query, key, value, cached, layout, window=window, **bounds
      )
    elif isinstance(layout, Continued):
      prefix, past = cached
      output = attention.attend_continuations(
        query,
        (key, value),
        past,
        prefix,
        step=layout.step,
        prefix_lengths=layout.prefix_lengths,
        window=window,
        **bounds,
      )
    elif splash.applies(config.attention_kernel, *query.shape[:2]):
      output = splash.attend(
        query,
        key,
        value,
        segment_ids=layout.segment_ids,
        kind=kind,
        windows=view.windows,
        **bounds,
      )
    else:
      output = attention.attend(
        query,
        key,
        value,
        positions=layout.positions,
        segment_ids=layout.segment_ids,
        window=window,
        blocks=config.attention_blocks,
        **bounds,
      )
    output = project(
      (config.heads, config.head_dim, config.width),
      ("heads", "kv", "embed"),
      num_inputs=2,
      name="out",
    )(output)
    return output, KeyValue(key, value) if view.return_kv else None


def _attend_branches(
  query: Array,
  key: Array,
  value: Array,
  cached: Any,
  layout: Branched,
  **settings: Any,
) -> Array:
  """Attends on branches, whose tokens are concatenated: [B, G C, ...]."""
  prefix, tree = cached
  branches = layout.depths.shape[1]
  apart = [
    part.reshape(part.shape[0], branches, -1, *part.shape[2:])
    for part in (query, key, value)
  ]
  output = attention.attend_branches(
    apart[0],
    (apart[1], apart[2]),
    prefix,
    tree,
    depths=layout.depths,
    prefix_lengths=layout.prefix_lengths,
    ancestors=layout.ancestors,
    tree_depths=layout.tree_depths,
    used=layout.used,
    **settings,
  )
  return output.reshape(query.shape)


class Block(nn.Module):
  """Attention and feed-forward, each on the normalised residual stream.

  Attributes:
    config: The `DecoderConfig`.
  """

  config: DecoderConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "B L D"], per_layer: Any, view: View
  ) -> tuple[Float[Array, "B L D"], KeyValue | None]:
    """Adds both to the residual stream; see `Attention` for the arguments."""
    config = self.config
    update, kv = Attention(config, name="attention")(
      self._norm("pre_attention_norm", x), per_layer, view
    )
    x = x + self._finish("post_attention_norm", update, view)
    mlp = GatedMlp(
      config.width,
      config.mlp_width,
      config.activation,
      jnp.dtype(config.dtype),
      jnp.dtype(config.param_dtype),
      config.lora,
      name="mlp",
    )
    update = mlp(self._norm("pre_mlp_norm", x))
    x = x + self._finish("post_mlp_norm", update, view)
    x = constrain(
      x, "activation_batch", "activation_length", "activation_embed"
    )
    return x, kv

  def _norm(self, name: str, x: Array) -> Array:
    return RMSNorm(self.config.norm_eps, name=name)(x)

  def _finish(self, name: str, update: Array, view: View) -> Array:
    if self.config.post_norms:
      update = self._norm(name, update)
    if self.config.dropout:
      update = nn.Dropout(self.config.dropout)(update, view.deterministic)
    return update
