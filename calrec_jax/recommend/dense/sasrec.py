"""Ranking by SASRec: the logits of the item that comes after a history.

The newest items are read, as many as the model has positions for. The search
over the catalogue is exact, see `topk`.
Tested against a full sort in `tests/reference/test_sasrec_reference.py`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from calrec_jax.data.cache.item_ids import ItemDomain
from calrec_jax.errors import at_least, check
from calrec_jax.metrics.ranking import Ranking
from calrec_jax.models.sasrec import SASRec
from calrec_jax.recommend import protocol
from calrec_jax.recommend.dense.topk import NO_COLUMN, Best, VectorIndex
from calrec_jax.recommend.dense.unique_texts import TextColumns
from calrec_jax.runtime import placement


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class SASRecSearch:
  """Sizes of the computation; they change no result.

  Attributes:
    user_rows: users in one forward pass, and in one search.
    chunk: items that a device compares at once.
  """

  user_rows: int = 64
  chunk: int = 8192

  def __post_init__(self):
    """Refuses sizes below 1."""
    check(self, user_rows=at_least(1), chunk=at_least(1))


class SASRecRecommender:
  """Ranks the items of one domain by SASRec's logits."""

  def __init__(
    self,
    model: SASRec,
    params: Any,
    domain: ItemDomain,
    *,
    settings: SASRecSearch | None = None,
    mesh: Mesh | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    trained_on: str = "train",
    name: str = "sasrec",
  ):
    """Takes the item embeddings of the domain.

    Args:
      model: the module.
      params: its parameters.
      domain: whose items are ranked; the model may know others beside.
      settings: sizes of the computation.
      mesh: where items lie and rows are spread; by default the mesh that is
        set, if any.
      checkpoint: what tells the parameters from others, JSON-ready, for
        answers that are kept on disk.
      trained_on: the split whose targets the parameters have learned.
      name: key in the metrics file.
    """
    self.name, self.trained_on = name, trained_on
    self.settings = settings or SASRecSearch()
    self._model, self._params, self._domain = model, params, domain
    self._mesh = placement.mesh_in_use(mesh)
    self._checkpoint = dict(checkpoint or {})
    table = np.asarray(_item_table(model, params), np.float32)
    # Every item is a column of its own.
    self._columns = TextColumns(np.arange(domain.items))
    self._index = VectorIndex(
      table[domain.first_token : domain.first_token + domain.items],
      self._columns.sizes,
      chunk=self.settings.chunk,
      mesh=self._mesh,
    )

  def describe(self) -> str:
    """One line for people: what ranks."""
    config = self._model.config
    return (
      f"SASRec on item ids: {config.blocks} blocks of width {config.width}, "
      f"the last {config.max_items} items"
    )

  def fingerprint(self) -> dict[str, Any]:
    """What decides the answers beside data and settings."""
    return {
      "checkpoint": self._checkpoint,
      "device": jax.devices()[0].device_kind,
    }

  def recommend(
    self,
    histories: Sequence[np.ndarray],
    *,
    depth: int,
    rules: Sequence[str] = ("not_last",),
  ) -> dict[str, Ranking]:
    """Ranks by logits; see `protocol.Recommender`."""
    histories = protocol.check_request(
      histories, depth, rules, self._domain.items
    )
    own = protocol.exclusions(histories, "not_seen")
    best = self._search(histories, own, depth)
    return {
      rule: self._columns.cut(
        best, own, protocol.exclusions(histories, rule), depth
      )
      for rule in rules
    }

  def _search(
    self, histories: Sequence[np.ndarray], own: np.ndarray, depth: int
  ) -> Best:
    """Lists that are long enough for any rule."""
    rows = placement.whole_rows(self.settings.user_rows, self._mesh)
    # Few shapes, so few compilations; an excluded item takes one place.
    width = 1 << max(3, (own.shape[1] - 1).bit_length())
    wanted = 1 << (depth + width - 1).bit_length()
    parts = []
    for start in range(0, len(histories), rows):
      chosen = histories[start : start + rows]
      tokens, lengths = placement.place(self._tokens(chosen, rows), self._mesh)
      asked = np.full((rows, width), NO_COLUMN, np.int32)
      asked[: len(chosen), : own.shape[1]] = own[start : start + rows]
      hidden = _last_hidden(
        self._model, self._params, tokens, lengths, mesh=self._mesh
      )
      best = self._index.search(hidden, asked, wanted)
      parts.append([np.asarray(field)[: len(chosen)] for field in best])
    if not parts:
      return Best(*(np.zeros((0, 1), np.float32) for _ in Best._fields))
    columns, scores, ties, asked = map(np.concatenate, zip(*parts, strict=True))
    return Best(columns, scores, ties, asked[:, : own.shape[1]])

  def _tokens(
    self, histories: Sequence[np.ndarray], rows: int
  ) -> tuple[Int[np.ndarray, "B P"], Int[np.ndarray, " B"]]:
    """The newest items as tokens, filled up on the right, and how many."""
    longest = self._model.config.max_items
    # One place more: that of the item which is asked for.
    tokens = np.zeros((rows, longest + 1), np.int32)
    lengths = np.zeros(rows, np.int32)
    for row, history in enumerate(histories):
      newest = history[-longest:]
      lengths[row] = len(newest)
      tokens[row, : len(newest)] = self._domain.first_token + newest
    return tokens, lengths


@functools.partial(jax.jit, static_argnames="model")
def _item_table(model: SASRec, params: Any) -> Float[Array, "V D"]:
  return model.apply({"params": params}, method="output_weights")


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def _last_hidden(
  model: SASRec,
  params: Any,
  tokens: Int[Array, "B P"],
  lengths: Int[Array, " B"],
  *,
  mesh: Mesh | None,
) -> Float[Array, "B D"]:
  """Float32 hidden states at the newest items, given to all devices."""
  place = jnp.arange(tokens.shape[1])[None]
  hidden = model.apply(
    {"params": params},
    tokens,
    jnp.broadcast_to(place, tokens.shape),
    # As in training, a segment ends with the place of what is asked for.
    (place <= lengths[:, None]).astype(jnp.int32),
  )
  newest = jnp.maximum(lengths - 1, 0)[:, None, None]
  last = jnp.take_along_axis(hidden, newest, axis=1)[:, 0].astype(jnp.float32)
  return placement.everywhere(last, mesh)
