"""Ranking by SASRec: the logits of the item that comes after a history.

The newest items are read, as many as the model has positions for. The search
over the catalogue is exact, see `topk`. Tested against a full sort in
`tests/reference/test_sasrec_reference.py`.
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
from calrec_jax.models.sasrec import SASRec
from calrec_jax.recommend.dense import unique_texts
from calrec_jax.recommend.dense.topk import VectorIndex
from calrec_jax.recommend.dense.unique_texts import BestTexts, UniqueTexts
from calrec_jax.recommend.protocol import Recommender, Request
from calrec_jax.runtime import placement


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class SASRecSearch:
  """Sizes of the computation; they change no result.

  Attributes:
    user_rows: Users in one forward pass, and in one search.
    chunk: Items that a device compares at once.
  """

  user_rows: int = 64
  chunk: int = 8192

  def __post_init__(self):
    check(self, user_rows=at_least(1), chunk=at_least(1))


class SASRecRecommender(Recommender):
  """Ranks the items of one domain by SASRec's logits."""

  name = "sasrec"

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
  ):
    """Takes the item embeddings of the domain.

    Args:
      model: Module of the model.
      params: Parameters of the model.
      domain: Domain whose items are ranked; the model may know others too.
      settings: Sizes of the computation.
      mesh: Devices that items and rows are spread over; by default the mesh
        that is set, if any.
      checkpoint: What distinguishes the parameters, JSON-ready, for the
        identity of saved answers.
      trained_on: Split whose targets the parameters have learned.
    """
    self.num_items = domain.items
    self.trained_on = trained_on
    self.settings = settings or SASRecSearch()
    self._model, self._params, self._domain = model, params, domain
    self._mesh = placement.mesh_in_use(mesh)
    self._checkpoint = dict(checkpoint or {})
    table = np.asarray(_item_table(model, params), np.float32)
    # Items are distinguished by their ids.
    self._texts = UniqueTexts(np.arange(domain.items))
    self._index = VectorIndex(
      table[domain.first_token : domain.first_token + domain.items],
      self._texts.sizes,
      chunk=self.settings.chunk,
      mesh=self._mesh,
    )

  def describe(self) -> str:
    """One human-readable line: what ranks."""
    config = self._model.config
    words = " and words" if config.text_tokens else ""
    return (
      f"SASRec on item ids{words}: {config.blocks} blocks of width "
      f"{config.width}, the last {config.max_items} items"
    )

  def fingerprint(self) -> dict[str, Any]:
    """What decides the answers beyond data and settings."""
    return {
      "checkpoint": self._checkpoint,
      "device": jax.devices()[0].device_kind,
    }

  def _score(self, request: Request) -> BestTexts:
    rows = placement.whole_rows(self.settings.user_rows, self._mesh)

    def queries(users: slice) -> jax.Array:
      tokens, lengths = placement.place(
        self._tokens(request.histories[users], rows), self._mesh
      )
      return _last_hidden(
        self._model, self._params, tokens, lengths, mesh=self._mesh
      )

    return unique_texts.search(self._index, self._texts, request, queries, rows)

  def _tokens(
    self, histories: Sequence[np.ndarray], rows: int
  ) -> tuple[Int[np.ndarray, "B P"], Int[np.ndarray, " B"]]:
    """The newest items as right-padded tokens, and how many."""
    longest = self._model.config.max_items
    # One position more: that of the item which is predicted.
    tokens = np.zeros((rows, longest + 1), np.int32)
    lengths = np.zeros(rows, np.int32)
    for row, history in enumerate(histories):
      newest = history[-longest:]
      lengths[row] = len(newest)
      tokens[row, : len(newest)] = self._domain.first_token + newest
    return tokens, lengths


@functools.partial(jax.jit, static_argnames="model")
def _item_table(model: Any, params: Any) -> Float[Array, "V D"]:
  return model.apply({"params": params}, method="output_weights")


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def _last_hidden(
  model: Any,
  params: Any,
  tokens: Int[Array, "B P"],
  lengths: Int[Array, " B"],
  *,
  mesh: Mesh | None,
) -> Float[Array, "B D"]:
  """Float32 hidden states at the newest items, given to all devices."""
  at = jnp.arange(tokens.shape[1])[None]
  hidden = model.apply(
    {"params": params},
    tokens,
    jnp.broadcast_to(at, tokens.shape),
    # As in training, a segment ends with the position of the target.
    (at <= lengths[:, None]).astype(jnp.int32),
  )
  newest = jnp.maximum(lengths - 1, 0)[:, None, None]
  last = jnp.take_along_axis(hidden, newest, axis=1)[:, 0].astype(jnp.float32)
  return placement.everywhere(last, mesh)
