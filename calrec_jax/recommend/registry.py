"""Recommenders by name: trained models from checkpoints, and baselines.

The evaluation and the inference job choose from the same names here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float

from calrec_jax.checkpoint import initial_parameters
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.records import Purchases
from calrec_jax.errors import InputError, nearest
from calrec_jax.recommend import provenance
from calrec_jax.recommend.baselines.bm25 import CatalogueIndex
from calrec_jax.recommend.baselines.untrained import BASELINES, untrained
from calrec_jax.recommend.constrain import constrained, rerank
from calrec_jax.recommend.dense import dense, sasrec_checkpoint
from calrec_jax.recommend.dense.sasrec import SASRecRecommender
from calrec_jax.recommend.dense.vector_store import VectorPlace
from calrec_jax.recommend.domain_model import DomainModel
from calrec_jax.recommend.fuse import fuse, fusion_record
from calrec_jax.recommend.fuse.fallback import WithFallback
from calrec_jax.recommend.generate import generate
from calrec_jax.recommend.prompts import PromptLimits
from calrec_jax.recommend.protocol import Recommender
from calrec_jax.recommend.trained_model import TrainedModel
from calrec_jax.storage import lineage
from calrec_jax.storage.blocks import Shard

MODEL_RECOMMENDERS = ("generate", "constrained", "dense", "fused", "reranked")
ITEM_MODELS = ("sasrec",)
# Those that let the model write, or judge what it would write.
_WRITING = ("generate", "constrained", "reranked")
RECOMMENDERS = (*MODEL_RECOMMENDERS, *ITEM_MODELS, *BASELINES)
# Those that depend on the split whose purchases are counted.
_COUNTING = ("popularity", "sequential_rules", "dense", "constrained")


class RecommenderFactory:
  """Makes the recommenders of one domain; shares what they have in common."""

  def __init__(
    self,
    cache: TokenCache,
    model: TrainedModel | None,
    limits: PromptLimits,
    mesh: jax.sharding.Mesh,
    *,
    counted: str = "train",
    shard: Shard | None = None,
  ):
    """Takes what the recommenders are made of.

    Args:
      cache: Token cache of the domain.
      model: Trained model, for those that need one.
      limits: How much of a history the model reads.
      mesh: Devices that the model runs on.
      counted: Split whose purchases are counted, as `TokenCache` takes it: by
        popularity, sequential rules and the prior of dense. An evaluation
        counts what the models were trained on, inference all that is known.
      shard: This process among those that do one job together; by default
        the only one.
    """
    self._cache, self._model = cache, model
    self._limits, self._mesh = limits, mesh
    self._shard, self._counted = shard or Shard(), counted
    self._purchases = functools.cache(cache.purchases)
    self._made: dict[tuple[str, str | None], Recommender] = {}

  def make(self, names: Sequence[str]) -> list[Recommender]:
    """The recommenders of these names, in this order.

    Raises:
      InputError: for an unknown name, with the nearest one.
    """
    for name in names:
      if name not in RECOMMENDERS:
        raise InputError(
          f"There is no recommender {name!r}."
          f"{nearest(name, RECOMMENDERS)} "
          f"Choose from {', '.join(RECOMMENDERS)}."
        )
    return [self._make(name) for name in names]

  def _make(self, name: str, counted: str | None = None) -> Recommender:
    """A recommender, made once; `counted` is the factory's by default."""
    counted = counted or self._counted
    key = name, counted if name in _COUNTING else None
    if key not in self._made:
      self._made[key] = self._new(name, counted)
    return self._made[key]

  def _new(self, name: str, counted: str) -> Recommender:
    catalogue = self._cache.catalogue
    size = len(catalogue)
    read = functools.partial(self._purchases, counted)
    train = counted == "train"  # Its purchases are counted in the catalogue.
    if name in BASELINES:
      return untrained(
        name,
        catalogue.texts,
        counts=lambda: catalogue.train_counts if train else read().counts(size),
        events=lambda: self._events(counted),
        index=lambda: self._index,
      )
    makers: dict[str, Callable[[], Recommender]] = {
      "generate": lambda: generate.GenerateAndGround(
        self._domain_model, self._cache.vocabulary(), index=self._index
      ),
      "dense": lambda: self._dense(
        catalogue.train_recent if train else read().recent(size)
      ),
      "constrained": lambda: WithFallback(
        [self._constrained, self._make("dense", counted)]
      ),
      "fused": self._fused,
      "reranked": lambda: WithFallback(
        [
          rerank.Reranked(self._make("fused"), self._domain_model),
          self._make("fused"),
        ]
      ),
      "sasrec": lambda: self._sasrec,
    }
    if name in _WRITING and not lineage.has_language_loss(
      self._trained.lineage
    ):
      raise InputError(
        f"{name!r} needs a model that writes texts, but this one was trained "
        "without the language model's loss (Objective.alpha + Objective.beta = "
        "1). Recommend by 'fused' or 'dense', or train with smaller weights."
      )
    return makers[name]()

  def _events(self, counted: str) -> Purchases:
    """Events of every kind, not only purchases."""
    if self._cache.targets_differ:
      return self._purchases(counted, every_kind=True)
    return self._purchases(counted)  # Which is read once.

  @functools.cached_property
  def _index(self) -> CatalogueIndex:
    return CatalogueIndex(self._cache.catalogue.texts)

  def _dense(self, recent: Float[np.ndarray, " N"]) -> dense.Dense:
    checkpoint = self._trained.checkpoint
    place = VectorPlace(
      folder=checkpoint.parent / "vectors",
      domain=self._cache.name,
      checkpoint=initial_parameters.CheckpointSource(checkpoint).describe(),
      shard=self._shard,
    )
    return dense.Dense(
      self._domain_model, recent=recent, place=place, progress=True
    )

  @functools.cached_property
  def _domain_model(self) -> DomainModel:
    model = self._trained
    return DomainModel(
      decoder=model.decoder,
      params=model.params,
      catalogue=self._cache.catalogue,
      prompt=self._cache.prompt,
      limits=self._limits,
      mesh=self._mesh,
      temperature=model.temperature,
    )

  @functools.cached_property
  def _constrained(self) -> constrained.ConstrainedItems:
    return constrained.ConstrainedItems(self._domain_model)

  def _fused(self) -> Recommender:
    settings = fuse.Fusion()
    allowed = [
      name for name in RECOMMENDERS if name not in ("fused", "reranked")
    ]
    for name in settings.members:
      if name not in allowed:
        raise InputError(
          f"Fusion.members names {name!r}.{nearest(name, allowed)} "
          f"Choose from {', '.join(allowed)}."
        )
    members = [self._make(name) for name in settings.members]
    chosen = None
    if settings.weights is None:
      chosen = self._chosen_weights(settings)
    elif isinstance(settings.weights, str):
      chosen = fusion_record.of_stage(
        settings.weights,
        self._cache.name,
        [member.name for member in members],
        settings,
      )
    fused = fuse.Fused(members, settings=settings, chosen=chosen)
    return WithFallback([fused, self._make("dense")])

  def _chosen_weights(self, settings: fuse.Fusion) -> fuse.Chosen:
    """By validation users, whose targets no member may know."""
    model = self._trained
    for name in settings.members:
      trained_on = "train"
      if name in MODEL_RECOMMENDERS:
        trained_on = lineage.trained_split(model.lineage)
      elif name in ITEM_MODELS:
        trained_on = self._sasrec.trained_on
      if trained_on != "train":
        raise InputError(
          f"{name!r} was trained on the validation targets (Feed.split = "
          f"{trained_on!r}), so that they cannot choose the weights of a "
          "fusion. Bind Fusion.weights to the folder of a stage that was not, "
          "whose weights are taken, or to () for equal ones."
        )
    return fusion_record.chosen(
      [self._make(name, "train") for name in settings.members],
      settings,
      self._cache,
      folder=model.checkpoint.parent / fusion_record.FOLDER,
      origin=provenance.of_answers(
        self._cache, model, self._limits, self._mesh
      ),
    )

  @functools.cached_property
  def _sasrec(self) -> SASRecRecommender:
    return sasrec_checkpoint.trained_sasrec(self._cache, self._mesh)

  @property
  def _trained(self) -> TrainedModel:
    if self._model is None:
      raise InputError(
        "A recommender of a language model needs a checkpoint "
        f"({', '.join(MODEL_RECOMMENDERS)})."
      )
    return self._model


def needs_model(names: Sequence[str]) -> bool:
  """Whether any of these recommenders needs a trained model."""
  return any(name in MODEL_RECOMMENDERS for name in names)
