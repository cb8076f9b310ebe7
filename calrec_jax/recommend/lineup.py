"""Which recommenders run side by side, chosen by name.

The one place that knows how each is made from a catalogue and a model.
"""

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from typing import Any

import gin
from jax.sharding import Mesh

from calrec_jax.data.records import Catalogue, PromptTokens
from calrec_jax.recommend import baselines
from calrec_jax.recommend.bm25 import CatalogueIndex
from calrec_jax.recommend.dense import Dense, DenseSearch
from calrec_jax.recommend.fuse import Fused, Fusion
from calrec_jax.recommend.generate import GenerateAndGround
from calrec_jax.recommend.ground import Grounding
from calrec_jax.recommend.prompts import PromptLimits
from calrec_jax.recommend.protocol import Recommender
from calrec_jax.recommend.sampling import Sampler

BASELINES = (
  "popularity",
  "last_item",
  "own_most_frequent",
  "bm25_last_item",
  "bm25_history",
)
LEARNED = ("generate", "dense")
FUSED = "fused"
NAMES = (*BASELINES, *LEARNED, FUSED)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Model:
  """A trained model, as the learned recommenders need it.

  Attributes:
    decoder: the module.
    params: its parameters.
    prompt: pieces of the prompt, as in training.
    vocabulary: turns token ids into text by `decode`.
  """

  decoder: Any
  params: Any
  prompt: PromptTokens
  vocabulary: Any


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Lineup:
  """The recommenders of one evaluation.

  Attributes:
    names: which run, in this order, out of `NAMES`.
    fused: the members of `fused`.
    sampler: how texts are drawn.
    grounding: how texts are matched; its `bm25` serves the baselines too.
    dense: sizes of the dense search.
    fusion: how lists are fused.
    limits: how much of a history the model reads.
  """

  names: Sequence[str] = NAMES
  fused: Sequence[str] = LEARNED
  sampler: Sampler = dataclasses.field(default_factory=Sampler)
  grounding: Grounding = dataclasses.field(default_factory=Grounding)
  dense: DenseSearch = dataclasses.field(default_factory=DenseSearch)
  fusion: Fusion = dataclasses.field(default_factory=Fusion)
  limits: PromptLimits = dataclasses.field(default_factory=PromptLimits)

  def __post_init__(self):
    for field in ("names", "fused"):
      for name in getattr(self, field):
        if name not in NAMES or (field, name) == ("fused", FUSED):
          near = difflib.get_close_matches(name, NAMES, n=1)
          hint = f" Did you mean {near[0]!r}?" if near else ""
          raise ValueError(
            f"Lineup.{field} holds {name!r}; there are {', '.join(NAMES)}."
            f"{hint}"
          )
    if not self.names or len(set(self.names)) < len(self.names):
      raise ValueError(
        f"Lineup.names is {tuple(self.names)}; name one recommender or more, "
        "each once."
      )

  @property
  def learned(self) -> tuple[str, ...]:
    """The recommenders that need a trained model."""
    return tuple(name for name in self._made() if name in LEARNED)

  def open(
    self,
    catalogue: Catalogue,
    model: Model | None = None,
    *,
    mesh: Mesh | None = None,
    progress: bool = False,
  ) -> list[Recommender]:
    """Makes the recommenders for one catalogue.

    Args:
      catalogue: the items.
      model: needed if `learned` names any.
      mesh: where vectors lie and rows are spread; by default the mesh that is
        set, if any.
      progress: whether slow parts show a progress bar.

    Raises:
      ValueError: if a model is needed and there is none.
    """
    if self.learned and model is None:
      raise ValueError(
        f"Lineup.names asks for {', '.join(self.learned)}, which need a "
        "trained model. Give a checkpoint, or bind Lineup.names to baselines: "
        f"{', '.join(BASELINES)}."
      )
    makers = _makers(self, catalogue, model, mesh, progress)
    made = {name: makers[name]() for name in self._made()}
    if FUSED in self.names:
      made[FUSED] = Fused(
        [made[name] for name in self.fused], settings=self.fusion
      )
    return [made[name] for name in self.names]

  def _made(self) -> tuple[str, ...]:
    """All but `fused`, with its members, each once."""
    members = self.fused if FUSED in self.names else ()
    named = dict.fromkeys((*self.names, *members))
    return tuple(name for name in named if name != FUSED)


def _makers(
  lineup: Lineup,
  catalogue: Catalogue,
  model: Model | None,
  mesh: Mesh | None,
  progress: bool,
) -> dict[str, Callable[[], Recommender]]:
  """How each recommender is made; all share one text index."""
  texts, indexed = catalogue.texts, []

  def index() -> CatalogueIndex:
    if not indexed:
      indexed.append(CatalogueIndex(texts, lineup.grounding.bm25))
    return indexed[0]

  def shared() -> dict[str, Any]:
    return {"limits": lineup.limits, "mesh": mesh, "progress": progress}

  return {
    "popularity": lambda: baselines.Popularity(catalogue.train_counts),
    "last_item": lambda: baselines.LastItem(len(catalogue)),
    "own_most_frequent": lambda: baselines.OwnMostFrequent(len(catalogue)),
    "bm25_last_item": lambda: baselines.bm25_last_item(texts, index()),
    "bm25_history": lambda: baselines.BM25History(texts, index()),
    "generate": lambda: GenerateAndGround(
      model.decoder,
      model.params,
      catalogue,
      model.prompt,
      model.vocabulary,
      sampler=lineup.sampler,
      grounding=lineup.grounding,
      index=index(),
      **shared(),
    ),
    "dense": lambda: Dense(
      model.decoder,
      model.params,
      catalogue,
      model.prompt,
      settings=lineup.dense,
      **shared(),
    ),
  }
