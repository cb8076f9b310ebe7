"""Ranking by the distance of user and item vectors: the model's two towers.

The score is the cosine of v_U, the mean over the user's prompt, and v_T, the
mean over the item's text: the similarity that the contrastive loss L_UT
trains; and what is known of any user, how often the item is bought, see
`prior`. Items with the same tokens share one vector and get the same score to
the last bit. The search is exact unless configured otherwise, see `topk`. The
items' vectors may be saved, see `vector_store`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from calrec_jax.errors import at_least, check, within
from calrec_jax.models import two_tower
from calrec_jax.recommend.by_prompt import ByPrompt, in_batches
from calrec_jax.recommend.dense import (
  prior,
  unique_texts,
  vector_identity,
  vector_store,
)
from calrec_jax.recommend.dense.topk import Rows, VectorIndex
from calrec_jax.recommend.dense.unique_texts import BestTexts
from calrec_jax.recommend.dense.vector_store import (
  CatalogueVectors,
  VectorPlace,
)
from calrec_jax.recommend.domain_model import DomainModel
from calrec_jax.recommend.prompts import TokenRows
from calrec_jax.recommend.protocol import Recommender, Request
from calrec_jax.runtime import placement

_SMALLEST_ITEM_LENGTH = 16
_SMALLEST_NORM = 1e-12


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseSearch:
  """How the vectors are computed and compared.

  Attributes:
    user_rows: Users on a device in one forward pass, and in one search.
    item_rows: Item texts on a device in one forward pass.
    chunk: Item vectors that a device compares at once.
    block: Item texts that are encoded together, and of a file where vectors are
      saved; a killed job loses one block.
    vectors_folder: Folder with a subfolder of each domain's vectors, which must
      be those of the checkpoint. None saves those of each checkpoint next to
      it.
    approx: Whether the search may miss some of the best, which pays on TPUs.
    recall_target: Fraction of the best of a chunk that such a search finds.
    prior: Weight of temperature · log(1 + purchases), which is added to the
      cosine: at 1 the score ranks by p(item | user) as L_UT learns it, at 0 by
      the cosine alone. A user's n-th last purchase counts 1/n: the next item
      follows what was bought lately.
  """

  user_rows: int = 16
  item_rows: int = 128
  chunk: int = 8192
  block: int = 16384
  vectors_folder: str | None = None
  approx: bool = False
  recall_target: float = 0.95
  prior: float = 1.0

  def __post_init__(self):
    check(
      self,
      user_rows=at_least(1),
      item_rows=at_least(1),
      chunk=at_least(1),
      block=at_least(1),
      prior=at_least(0),
      recall_target=within("(0, 1)"),
    )


class Dense(Recommender):
  """Ranks by the cosine of the user's and the items' vectors."""

  name = "dense"

  def __init__(
    self,
    model: DomainModel,
    *,
    settings: DenseSearch | None = None,
    recent: Float[np.ndarray, " N"] | None = None,
    place: VectorPlace | None = None,
    progress: bool = False,
  ):
    """Encodes the catalogue, or reads its vectors.

    Args:
      model: Model and catalogue; without a temperature the prior is left out.
      settings: Sizes of the computation.
      recent: Recent purchases of each item, for the prior; by default those
        of the training split, `catalogue.train_recent`.
      place: Place of the items' saved vectors; None saves none.
      progress: Whether to show a progress bar while items are encoded.

    Raises:
      VectorsError: if the vectors on disk are not those of this model and
        catalogue.
    """
    self.num_items = len(model.catalogue)
    self.settings = settings or DenseSearch()
    self._model = model
    self._users: ByPrompt[np.ndarray] = ByPrompt(
      model,
      functools.partial(self._embed, "user"),
      _units,
      rows=self.settings.user_rows,
    )
    vectors = self._item_vectors(place, progress)
    self._has_prior = model.temperature is not None and self.settings.prior > 0
    if model.temperature is not None and self._has_prior:
      if recent is None:
        recent = model.catalogue.train_recent
      popularity = prior.log_popularity(recent, model.texts.ids)
      terms = self.settings.prior * model.temperature * popularity
      vectors = prior.WithPrior(vectors, terms)
    self._index = VectorIndex(
      vectors,
      model.texts.sizes,
      chunk=self.settings.chunk,
      mesh=model.mesh,
      recall_target=(
        self.settings.recall_target if self.settings.approx else None
      ),
    )

  def describe(self) -> str:
    """One human-readable line: what ranks."""
    search = "exact"
    if self.settings.approx:
      search = f"recall target {self.settings.recall_target:g}"
    weight = f"{self.settings.prior:g} times " if self._has_prior else ""
    return (
      "cosine of the user's vector with the vectors of "
      f"{len(self._model.texts)} item texts"
      + (f", {weight}their log popularity added" if weight else "")
      + f", {search}"
    )

  def _score(self, request: Request) -> BestTexts:
    vectors = self.embed(request.histories)
    if self._has_prior:
      vectors = prior.queries(vectors)
    rows = self.settings.user_rows

    def queries(users: slice) -> jax.Array:
      part = vectors[users]
      return jnp.asarray(np.pad(part, ((0, rows - len(part)), (0, 0))))

    return unique_texts.search(
      self._index, self._model.texts, request, queries, rows
    )

  def embed(self, histories: Sequence[np.ndarray]) -> Float[np.ndarray, "B D"]:
    """Unit vectors of users."""
    vectors = self._users(histories)
    return np.stack(vectors) if vectors else np.zeros((0, 1), np.float32)

  def _item_vectors(self, place: VectorPlace | None, progress: bool) -> Rows:
    """Unit vectors of the unique item texts, block by block."""
    model, texts, size = self._model, self._model.texts, self.settings.block
    bar = tqdm.tqdm(
      total=len(texts),
      desc=f"{self.name}: item vectors",
      unit="text",
      disable=not progress or jax.process_index() != 0,
    )

    def finish(batch: TokenRows, embedded: jax.Array) -> list[np.ndarray]:
      vectors = _units(batch, embedded)
      bar.update(len(vectors))
      return vectors

    def encode(block: slice) -> np.ndarray:
      vectors = in_batches(
        [model.prompts.item(int(row)) for row in texts.first_rows[block]],
        model.whole_rows(self.settings.item_rows),
        _SMALLEST_ITEM_LENGTH,
        functools.partial(self._embed, "item"),
        finish,
      )
      return np.stack(vectors)

    with bar:
      if place is None:
        starts = range(0, len(texts), size)
        return np.concatenate([encode(slice(at, at + size)) for at in starts])
      identity = vector_identity.describe(
        checkpoint=place.checkpoint,
        model=model,
        encoder={
          "block": size,
          "item_rows": self.settings.item_rows,
          "smallest_length": _SMALLEST_ITEM_LENGTH,
        },
      )
      chosen = self.settings.vectors_folder
      folder = vector_store.folder_of(place, chosen, identity)
      saved = CatalogueVectors(folder, identity, len(texts), size)
      saved.complete(
        encode,
        shard=place.shard,
        together=placement.spans_processes(model.mesh),
        bar=bar,
      )
      return saved

  def _embed(self, tower: str, batch: TokenRows) -> jax.Array:
    """Gives one batch to the device: vectors [rows, D] of a tower."""
    model = self._model
    return embed_rows(
      model.decoder,
      model.params,
      *model.place((batch.tokens, batch.lengths)),
      tower=tower,
      begins=model.prompt.begin is not None,
      mesh=model.mesh,
    )


@functools.partial(
  jax.jit, static_argnames=("decoder", "tower", "begins", "mesh")
)
def embed_rows(
  decoder: Any,
  params: Any,
  tokens: Int[Array, "B P"],
  lengths: Int[Array, " B"],
  *,
  tower: str,
  begins: bool,
  mesh: Mesh | None,
) -> Float[Array, "B D"]:
  """Vectors of one tower, given to all devices."""
  if tower == "user":
    vectors = two_tower.embed_users(decoder, params, tokens, lengths)
  else:
    vectors = two_tower.embed_items(
      decoder, params, tokens, lengths, begins=begins
    )
  return placement.everywhere(vectors, mesh)


def _units(batch: TokenRows, vectors: Float[Array, "B D"]) -> list[np.ndarray]:
  """Unit vectors float32[D] of the sequences of a batch."""
  real = np.asarray(vectors)[: len(batch.indices)]
  norms = np.linalg.norm(real, axis=1, keepdims=True)
  return list(real / np.maximum(norms, _SMALLEST_NORM))
