"""SASRec: a causal decoder whose tokens are item ids.

Kang and McAuley, "Self-attentive sequential recommendation" (ICDM 2018). Item
and position embeddings are learned, and the output is tied to the item
embeddings. As in the authors' code, queries are normalised while keys and
values are not, and the residual of a sublayer is its normalised input; dropout
is applied to the sum of the embeddings, to attention weights, and twice in the
feed-forward layer.

With `SASRecConfig.text_tokens` an item's embedding is the sum of its own and
of those of the tokens of its text: items that are seldom bought are known by
their words (as in feature-aware models, such as FDSA, Zhang et al., IJCAI 2019,
whose features have a network of their own).

It reads packed rows. The last position of a segment holds the target item,
whose embedding no other position attends to.
Tested against a NumPy loop in `tests/reference/test_sasrec_reference.py`, and
in `tests/unit/models/test_sasrec_model.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import gin
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from calrec_jax.data.cache.item_ids import FIRST_TOKEN, ItemTexts
from calrec_jax.errors import (
  InputError,
  at_least,
  check,
  one_of,
  optional,
  refuse,
  within,
)
from calrec_jax.models.attention import packed_mask
from calrec_jax.models.decoder_config import DTYPES
from calrec_jax.models.layers import gather_output, parameter
from calrec_jax.runtime.partitioning import constrain

POSITIONS = ("from_end", "from_start")
# Far below any logit, but finite: an empty row must not become NaN.
_MASKED = -1e30
_ROWS = 128  # Table rows are a multiple of this, which every mesh divides.


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class SASRecConfig:
  """The shape of a SASRec model.

  Attributes:
    num_items: Number of items in all training domains; None takes it from the
      token caches.
    max_items: Maximum number of items of a history; the newest are read.
    width: Width of embeddings and blocks, D.
    blocks: Number of blocks of attention and feed-forward.
    heads: Number of attention heads; divides `width`.
    dropout: Dropout rate in training.
    positions: Origin of the positions: "from_end" counts back from the target
      item, so that the newest item always has the same position (the authors'
      code, which pads on the left), "from_start" from the oldest item read.
    text_tokens: Number of tokens of an item's text, the first ones, whose
      embeddings are added to that of its id; 0 reads ids alone, as the authors.
    vocabulary_size: Number of tokens of the text vocabulary; None takes it from
      the token caches.
    norm_eps: Epsilon of the layer norms.
    dtype: Dtype of activations and matrix products.
    param_dtype: Dtype of parameters.
  """

  num_items: int | None = None
  max_items: int = 50
  width: int = 64
  blocks: int = 2
  heads: int = 2
  dropout: float = 0.5
  positions: str = "from_end"
  text_tokens: int = 0
  vocabulary_size: int | None = None
  norm_eps: float = 1e-8
  dtype: str = "float32"
  param_dtype: str = "float32"

  def __post_init__(self):
    check(
      self,
      num_items=optional(at_least(1)),
      max_items=at_least(1),
      width=at_least(1),
      blocks=at_least(1),
      heads=at_least(1),
      dropout=within("[0, 1)"),
      text_tokens=at_least(0),
      vocabulary_size=optional(at_least(1)),
      positions=one_of(*POSITIONS),
      dtype=one_of(*DTYPES),
      param_dtype=one_of(*DTYPES),
    )
    if self.width % self.heads:
      refuse(self, "width", f"must be a multiple of heads = {self.heads}.")

  @classmethod
  def from_record(cls, record: Mapping[str, Any]) -> "SASRecConfig":
    """The shape from the plain values of a lineage record."""
    return cls(**record)

  @property
  def lora(self) -> None:
    """None: the model has no LoRA."""
    return None

  @property
  def table_rows(self) -> int:
    """Rows of the item embedding: the padding token, items, and unused rows."""
    if self.num_items is None:
      raise ValueError(
        "SASRecConfig.num_items is None; call `for_vocabulary` first."
      )
    return -(-(FIRST_TOKEN + self.num_items) // _ROWS) * _ROWS

  def for_vocabulary(
    self, tokens: int, *, exact: bool = False
  ) -> "SASRecConfig":
    """The same shape for the given number of tokens, padding included.

    Args:
      tokens: Number of token ids.
      exact: Ignored: rows that are not items have no probability.

    Raises:
      InputError: If a fixed `num_items` differs.
    """
    del exact
    items = tokens - FIRST_TOKEN
    if self.num_items not in (None, items):
      raise InputError(
        f"SASRecConfig.num_items = {self.num_items}, but the token caches hold "
        f"{items} items. Leave it at None."
      )
    return dataclasses.replace(self, num_items=items)


class SASRec(nn.Module):
  """The model over packed segments of item tokens.

  Attributes:
    config: Shape of the model.
    texts: Texts of the items, [V, text_tokens], if the model reads them.
  """

  config: SASRecConfig
  texts: ItemTexts | None = None

  def setup(self):
    """Declares the parameters."""
    config = self.config
    self.item_embedding = self._table("item_embedding", config.table_rows)
    self.position_embedding = self._table(
      "position_embedding", config.max_items, None
    )
    if self.texts is not None:
      words = -(-self.texts.vocabulary_size // _ROWS) * _ROWS
      self.text_embedding = self._table("text_embedding", words)
    self.dropout = nn.Dropout(config.dropout)
    self.blocks = [
      Block(config, name=f"block_{block}") for block in range(config.blocks)
    ]
    self.last_norm = _norm(config)

  def __call__(
    self,
    tokens: Int[Array, "R L"],
    positions: Int[Array, "R L"],
    segment_ids: Int[Array, "R L"],
    deterministic: bool = True,
  ) -> Float[Array, "R L D"]:
    """Hidden states of packed rows, after the last norm.

    Args:
      tokens: Item tokens; no other position attends to a segment's last one.
      positions: Positions, which increase from 0 in every segment.
      segment_ids: Segment of each token; attention is causal within one.
      deterministic: Whether dropout is off.
    """
    dtype = jnp.dtype(self.config.dtype)
    rows = self._position_rows(positions, segment_ids)
    x = self.embed(tokens)
    x = x + self.position_embedding[rows].astype(dtype)
    x = self.dropout(x, deterministic)
    seen = packed_mask((positions, segment_ids), (positions, segment_ids))
    for block in self.blocks:
      x = constrain(
        x, "activation_batch", "activation_length", "activation_embed"
      )
      x = block(x, seen, deterministic)
    return self.last_norm(x)

  def embed(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
    """The embeddings of item tokens in the compute dtype."""
    own = self._gathered(self.item_embedding)[tokens]
    if self.texts is None:
      return own
    return own + self._words(jnp.asarray(self.texts.tokens)[tokens])

  def output_weights(self) -> Float[Array, "V D"]:
    """The embeddings of all item tokens, gathered over the width."""
    table = self._gathered(self.item_embedding)
    if self.texts is None:
      return table
    return table + self._words(jnp.asarray(self.texts.tokens))

  def _words(self, tokens: Int[Array, "*batch W"]) -> Float[Array, "*batch D"]:
    """The embeddings of texts: sums, as long as those of one token."""
    written = tokens >= 0
    rows = self._gathered(self.text_embedding)[jnp.maximum(tokens, 0)]
    rows = jnp.where(written[..., None], rows, 0)
    count = jnp.maximum(jnp.sum(written, axis=-1, keepdims=True), 1)
    return jnp.sum(rows, axis=-2) * jax.lax.rsqrt(count.astype(rows.dtype))

  def _gathered(self, table: Float[Array, "V D"]) -> Float[Array, "V D"]:
    dtype = jnp.dtype(self.config.dtype)
    return gather_output(table, ("vocab", "embed"), dtype)

  def _table(self, name: str, rows: int, axis: str | None = "vocab") -> Array:
    return parameter(
      self,
      name,
      nn.initializers.glorot_normal(),
      (rows, self.config.width),
      (axis, "embed"),
      jnp.dtype(self.config.param_dtype),
    )

  def _position_rows(
    self, positions: Int[Array, "R L"], segment_ids: Int[Array, "R L"]
  ) -> Int[Array, "R L"]:
    """Row of each token in the position embedding."""
    if self.config.positions == "from_end":
      # The position before the target is 0; nothing attends to the target
      # itself, so that its row does not matter.
      positions = jnp.maximum(before_end(segment_ids) - 1, 0)
    return jnp.minimum(positions, self.config.max_items - 1)


class Block(nn.Module):
  """Attention, then a feed-forward layer.

  Attributes:
    config: Shape of the model.
  """

  config: SASRecConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "R L D"],
    seen: Bool[Array, "R L L"],
    deterministic: bool,
  ) -> Float[Array, "R L D"]:
    """Applies both; `seen` masks the keys of each query."""
    config = self.config
    drop = nn.Dropout(config.dropout, deterministic=deterministic)
    query = _norm(config, "attention_norm")(x)
    x = query + self._attend(query, x, seen, drop)
    normed = _norm(config, "mlp_norm")(x)
    hidden = nn.relu(_linear(config, "wi", ("embed", "mlp"))(normed))
    update = _linear(config, "wo", ("mlp", "embed"))(drop(hidden))
    return normed + drop(update)

  def _attend(
    self,
    query: Float[Array, "R L D"],
    x: Float[Array, "R L D"],
    seen: Bool[Array, "R L L"],
    drop: Callable[[Array], Array],
  ) -> Float[Array, "R L D"]:
    config = self.config
    split = (*x.shape[:2], config.heads, config.width // config.heads)
    query, key, value = (
      _linear(config, name, ("embed", "heads"))(given).reshape(split)
      for name, given in (("query", query), ("key", x), ("value", x))
    )
    logits = jnp.einsum(
      "rqhf,rkhf->rhqk", query, key, preferred_element_type=jnp.float32
    )
    logits = logits * (split[-1] ** -0.5)
    logits = jnp.where(seen[:, None], logits, _MASKED)
    weights = drop(jax.nn.softmax(logits, axis=-1).astype(value.dtype))
    output = jnp.einsum("rhqk,rkhf->rqhf", weights, value)
    return _linear(config, "out", ("heads", "embed"))(output.reshape(x.shape))


def before_end(segment_ids: Int[Array, "R L"]) -> Int[Array, "R L"]:
  """Number of positions that follow each position in its segment."""
  index = jnp.arange(segment_ids.shape[1])[None]
  closes = jnp.pad(
    segment_ids[:, 1:] != segment_ids[:, :-1],
    ((0, 0), (0, 1)),
    constant_values=True,
  )
  ends = jnp.where(closes, index, segment_ids.shape[1])
  return jax.lax.cummin(ends, axis=1, reverse=True) - index


def is_item(config: SASRecConfig) -> Bool[Array, " V"]:
  """Which rows of the embedding are items."""
  rows = jnp.arange(config.table_rows)
  return (rows >= FIRST_TOKEN) & (rows < FIRST_TOKEN + (config.num_items or 0))


def train_step_flops(
  config: SASRecConfig,
  *,
  tokens: float,
  loss_tokens: float,
  attended: float,
  trained: Callable[[str], bool] = lambda path: True,
) -> float:
  """FLOPs with the full softmax; see `flops.train_step_flops`.

  `trained` is ignored: everything is trained.
  """
  del trained
  kernels = 6 * config.width**2  # Query, key, value, out, wi, wo.
  scores = 2 * attended * config.width
  blocks = config.blocks * (kernels + scores)
  logits = config.width * config.table_rows
  # Words are looked up and added, not multiplied.
  return 3 * 2 * (tokens * blocks + loss_tokens * logits)


def _norm(config: SASRecConfig, name: str | None = None) -> nn.LayerNorm:
  return nn.LayerNorm(
    epsilon=config.norm_eps,
    dtype=jnp.dtype(config.dtype),
    param_dtype=jnp.dtype(config.param_dtype),
    scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("norm",)),
    bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("norm",)),
    name=name,
  )


def _linear(config: SASRecConfig, name: str, axes: tuple[str, str]) -> nn.Dense:
  return nn.Dense(
    config.width,
    dtype=jnp.dtype(config.dtype),
    param_dtype=jnp.dtype(config.param_dtype),
    kernel_init=nn.with_logical_partitioning(
      nn.initializers.glorot_normal(), axes
    ),
    bias_init=nn.with_logical_partitioning(nn.initializers.zeros, axes[1:]),
    name=name,
  )
