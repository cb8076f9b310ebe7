"""Ranking by the distance of user and item vectors: the model's two towers.

The score is the cosine of v_U, the mean over the user's prompt, and v_T, the
mean over the item's text: the similarity that the contrastive loss L_UT
trains; and what is known of any user, how often the item is bought, see
`prior`. Items with the same tokens share one vector and get the same score to
the last bit. The search is exact unless told otherwise, see `topk`. The
items' vectors may be kept on disk, see `catalogue_vectors`.
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

from calrec_jax.data.records import Catalogue, PromptTokens
from calrec_jax.errors import at_least, check, within
from calrec_jax.metrics.ranking import Ranking
from calrec_jax.models import two_tower
from calrec_jax.recommend import protocol
from calrec_jax.recommend.dense import prior, vector_identity, vector_store
from calrec_jax.recommend.dense.topk import NO_COLUMN, Best, Rows, VectorIndex
from calrec_jax.recommend.dense.unique_texts import TextColumns
from calrec_jax.recommend.dense.vector_store import (
  CatalogueVectors,
  VectorPlace,
)
from calrec_jax.recommend.memory import RecentlyUsed
from calrec_jax.recommend.prompts import PromptLimits, PromptWriter, token_rows
from calrec_jax.runtime import placement

_REMEMBERED_PROMPTS = 2**14
_SMALLEST_ITEM_LENGTH = 16
_SMALLEST_NORM = 1e-12


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseSearch:
  """How the vectors are computed and compared.

  Attributes:
    user_rows: users on a device in one forward pass, and in one search.
    item_rows: item texts on a device in one forward pass.
    chunk: item vectors that a device compares at once.
    block: item texts that are encoded apart from the others, and of a file
      where vectors are kept; a killed job loses what it had of one block.
    vectors_folder: holds a folder with each domain's vectors, which have to be
      those of the checkpoint. None keeps those of each checkpoint beside it.
    approx: whether the search may miss some of the best, which pays on TPUs.
    recall_target: share of the best of a chunk that such a search is to find.
    prior: times temperature · log(1 + purchases) is added to the cosine: at 1
      the score is that of p(item | user) by what L_UT learns, at 0 the cosine
      alone. A user's n-th last purchase counts 1/n: the next item follows what
      is bought lately.
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
    """Refuses sizes below 1."""
    check(
      self,
      user_rows=at_least(1),
      item_rows=at_least(1),
      chunk=at_least(1),
      block=at_least(1),
      prior=at_least(0),
      recall_target=within("(0, 1)"),
    )


class Dense:
  """Ranks by the cosine of the user's and the items' vectors."""

  def __init__(
    self,
    decoder: Any,
    params: Any,
    catalogue: Catalogue,
    prompt: PromptTokens,
    *,
    settings: DenseSearch | None = None,
    limits: PromptLimits | None = None,
    temperature: float | None = None,
    recent: Float[np.ndarray, " N"] | None = None,
    mesh: Mesh | None = None,
    place: VectorPlace | None = None,
    progress: bool = False,
    name: str = "dense",
  ):
    """Encodes the catalogue, or reads its vectors.

    Args:
      decoder: the module of the model.
      params: its parameters.
      catalogue: the items.
      prompt: pieces of the prompt, as in training.
      settings: sizes of the computation.
      limits: how much of a history is read.
      temperature: that the vectors were trained with; None leaves the prior
        out.
      recent: recent purchases of each item, for the prior; by default those
        of the training split, `catalogue.train_recent`.
      mesh: where vectors lie and rows are spread; by default the mesh that is
        set, if any.
      place: where the items' vectors are kept; None keeps them in memory only.
      progress: whether to show a progress bar while items are encoded.
      name: key in the metrics file.

    Raises:
      VectorsError: if the vectors on disk are not those of this model and
        catalogue.
    """
    self.name = name
    self.settings = settings or DenseSearch()
    self._decoder, self._params = decoder, params
    self._mesh = placement.mesh_in_use(mesh)
    self._begins = prompt.begin is not None
    self._prompts = PromptWriter(catalogue, prompt, limits)
    self._users: RecentlyUsed[bytes, np.ndarray] = RecentlyUsed(
      _REMEMBERED_PROMPTS
    )
    self._texts = TextColumns(catalogue.twins)
    kept = None
    if place is not None:
      kept = self._kept(place, catalogue, prompt)
    vectors = self._item_vectors(kept, place, progress)
    self._has_prior = False
    if temperature is not None and self.settings.prior > 0:
      self._has_prior = True
      if recent is None:
        recent = catalogue.train_recent
      popularity = prior.log_popularity(recent, self._texts.columns)
      terms = self.settings.prior * temperature * popularity
      vectors = prior.WithPrior(vectors, terms)
    self._index = VectorIndex(
      vectors,
      self._texts.sizes,
      chunk=self.settings.chunk,
      mesh=self._mesh,
      recall_target=(
        self.settings.recall_target if self.settings.approx else None
      ),
    )

  def describe(self) -> str:
    """One line for people: what ranks."""
    search = "exact"
    if self.settings.approx:
      search = f"recall target {self.settings.recall_target:g}"
    weight = f"{self.settings.prior:g} times " if self._has_prior else ""
    return (
      "cosine of the user's vector with the vectors of "
      f"{len(self._texts)} item texts"
      + (f", {weight}their log popularity added" if weight else "")
      + f", {search}"
    )

  def recommend(
    self,
    histories: Sequence[np.ndarray],
    *,
    depth: int,
    rules: Sequence[str] = ("not_last",),
  ) -> dict[str, Ranking]:
    """Ranks by cosine; see `protocol.Recommender`."""
    histories = protocol.check_request(
      histories, depth, rules, len(self._texts.columns)
    )
    own = protocol.exclusions(histories, "not_seen")
    best = self._search(self.embed(histories), own, depth)
    return {
      rule: self._texts.cut(
        best, own, protocol.exclusions(histories, rule), depth
      )
      for rule in rules
    }

  def embed(self, histories: Sequence[np.ndarray]) -> Float[np.ndarray, "B D"]:
    """Unit vectors of users."""
    prompts = [self._prompts.user(history).tobytes() for history in histories]
    vectors = self._users.look_up(prompts, self._embed_prompts)
    return np.stack(vectors) if vectors else np.zeros((0, 1), np.float32)

  def _kept(
    self, place: VectorPlace, catalogue: Catalogue, prompt: PromptTokens
  ) -> CatalogueVectors:
    """The files of the items' vectors, complete or not."""
    settings = self.settings
    identity = vector_identity.describe(
      checkpoint=place.checkpoint,
      decoder=self._decoder,
      params=self._params,
      catalogue=catalogue,
      prompt=prompt,
      encoder={
        "block": settings.block,
        "item_rows": settings.item_rows,
        "smallest_length": _SMALLEST_ITEM_LENGTH,
      },
    )
    return CatalogueVectors(
      vector_store.folder_of(place, settings.vectors_folder, identity),
      identity,
      len(self._texts),
      settings.block,
    )

  def _item_vectors(
    self,
    kept: CatalogueVectors | None,
    place: VectorPlace | None,
    progress: bool,
  ) -> Rows:
    """Unit vectors of the distinct item texts, block by block."""
    count, size = len(self._texts), self.settings.block
    bar = tqdm.tqdm(
      total=count,
      desc=f"{self.name}: item vectors",
      unit="text",
      disable=not progress or jax.process_index() != 0,
    )

    def encode(block: slice) -> np.ndarray:
      return self._encode(
        "item",
        [self._prompts.item(int(row)) for row in self._texts.first_rows[block]],
        rows=self.settings.item_rows,
        smallest_length=_SMALLEST_ITEM_LENGTH,
        bar=bar,
      )

    with bar:
      if kept is None or place is None:
        return np.concatenate(
          [encode(slice(at, at + size)) for at in range(0, count, size)]
        )
      kept.complete(
        encode,
        share=place.share,
        shares=place.shares,
        together=placement.spans_processes(self._mesh),
        bar=bar,
      )
      return kept

  def _embed_prompts(self, keys: list[bytes]) -> Float[np.ndarray, "B D"]:
    """Vectors of distinct prompts, given as the bytes of their tokens."""
    return self._encode(
      "user",
      [np.frombuffer(key, np.int32) for key in keys],
      rows=self.settings.user_rows,
      smallest_length=self._prompts.limits.smallest_length,
    )

  def _encode(
    self,
    tower: str,
    sequences: list[np.ndarray],
    *,
    rows: int,
    smallest_length: int,
    bar: tqdm.tqdm | None = None,
  ) -> Float[np.ndarray, "B D"]:
    """Unit vectors of token sequences, in their order."""
    rows = placement.whole_rows(rows, self._mesh)
    vectors: list[np.ndarray] = [np.zeros(0, np.float32)] * len(sequences)
    for batch in token_rows(sequences, rows, smallest_length):
      tokens, lengths = placement.place(
        (batch.tokens, batch.lengths), self._mesh
      )
      embedded = embed_rows(
        self._decoder,
        self._params,
        tokens,
        lengths,
        tower=tower,
        begins=self._begins,
        mesh=self._mesh,
      )
      for place, vector in zip(
        batch.places, np.asarray(embedded), strict=False
      ):
        vectors[place] = vector
      if bar is not None:
        bar.update(len(batch.places))
    return _unit(np.stack(vectors))

  def _search(
    self, users: Float[np.ndarray, "B D"], own: np.ndarray, depth: int
  ) -> Best:
    """Lists that are long enough for any rule."""
    rows = self.settings.user_rows
    # Few shapes, so few compilations. An excluded item can take at most one
    # column out of a list.
    width = 1 << max(3, (own.shape[1] - 1).bit_length())
    wanted = 1 << (depth + width - 1).bit_length()
    parts = []
    for start in range(0, len(users), rows):
      queries = users[start : start + rows]
      asked = np.full((rows, width), NO_COLUMN, np.int32)
      asked[: len(queries), : own.shape[1]] = self._texts.of(
        own[start : start + rows]
      )
      if self._has_prior:
        queries = prior.asked(queries)
      filled = np.pad(queries, ((0, rows - len(queries)), (0, 0)))
      best = self._index.search(jnp.asarray(filled), asked, wanted)
      parts.append([np.asarray(field)[: len(queries)] for field in best])
    if not parts:
      return Best(*(np.zeros((0, 1), np.float32) for _ in Best._fields))
    columns, scores, ties, asked = map(np.concatenate, zip(*parts, strict=True))
    return Best(columns, scores, ties, asked[:, : own.shape[1]])


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


def _unit(vectors: Float[np.ndarray, "B D"]) -> Float[np.ndarray, "B D"]:
  norms = np.linalg.norm(vectors, axis=1, keepdims=True)
  return vectors / np.maximum(norms, _SMALLEST_NORM)
