"""Writing items of the catalogue, and nothing else.

The model's hypotheses walk along the trie of the catalogue's texts (`walk`),
so everything it writes is an item, at any temperature, and the text need not be
matched to the catalogue afterwards.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from calrec_jax.data.records import Catalogue, PromptTokens
from calrec_jax.errors import (
  DivergedError,
  above,
  at_least,
  check,
  integer,
  one_of,
)
from calrec_jax.metrics.ranking import Ranking
from calrec_jax.recommend import protocol
from calrec_jax.recommend.by_prompt import ByPrompt
from calrec_jax.recommend.constrain import trie
from calrec_jax.recommend.constrain.text_scores import SCORES, TextScorer
from calrec_jax.recommend.constrain.walk import Walked, bounds, walk
from calrec_jax.recommend.dense.unique_texts import TextColumns
from calrec_jax.recommend.generate.sampling import uniform_rows
from calrec_jax.recommend.prefix import Prefix, read
from calrec_jax.recommend.prompts import PromptLimits, PromptWriter, TokenRows
from calrec_jax.runtime import placement


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Constrained:
  """How items are written.

  Attributes:
    search: `beams` for the most probable items, `samples` to draw them.
    hypotheses: beams or samples of a user: the most items of a list.
    score: what orders them: `walk` counts only choices, among real items:
      forced tokens count nothing; `sum` is the model's own log-probability of
      the whole text; `mean` is that over its tokens. The last two read every
      text once more.
    temperature: divides the logits before drawing; not for beams.
    seed: of all samples.
    rows: users in one program.
  """

  search: str = "beams"
  hypotheses: int = 32
  score: str = "walk"
  temperature: float = 0.5
  seed: int = 0
  rows: int = 16

  def __post_init__(self):
    """Refuses settings without a search."""
    check(
      self,
      search=one_of("beams", "samples"),
      score=one_of("walk", *SCORES),
      hypotheses=at_least(1),
      rows=at_least(1),
      temperature=above(0),
      seed=integer(0, below=2**64),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class WrittenItems:
  """The distinct texts that were written for a prompt, best first.

  Attributes:
    columns: int32[K].
    scores: float32[K], as `Constrained.score` says.
    hypotheses: int32[K], how many wrote it.
  """

  columns: np.ndarray
  scores: np.ndarray
  hypotheses: np.ndarray


class ConstrainedItems:
  """Ranks the items that the model writes; at most `hypotheses` texts."""

  def __init__(
    self,
    decoder: Any,
    params: Any,
    catalogue: Catalogue,
    prompt: PromptTokens,
    *,
    settings: Constrained | None = None,
    limits: PromptLimits | None = None,
    mesh: Mesh | None = None,
    progress: bool = False,
    name: str = "constrained",
  ):
    """Builds the trie of a catalogue.

    Args:
      decoder: the module of the model.
      params: its parameters.
      catalogue: the items.
      prompt: pieces of the prompt, as in training.
      settings: how items are written.
      limits: how much of a history is read.
      mesh: where rows are spread; by default the mesh that is set, if any.
      progress: whether to show a progress bar while writing.
      name: key in the metrics file.
    """
    self.name = name
    self.settings = settings or Constrained()
    self._decoder, self._params = decoder, params
    self._catalogue = catalogue
    self._mesh = placement.mesh_in_use(mesh)
    self._columns = TextColumns(catalogue.twins)
    texts = trie.Texts(catalogue.values, catalogue.offsets).take(
      self._columns.first_rows
    )
    self._trie = trie.build(texts)
    self._bounds = bounds(
      self._trie,
      self.settings.hypotheses,
      beams=self.settings.search == "beams",
    )
    self._score = TextScorer(decoder, params, texts, self._mesh)
    self._arrays = self._trie.on_device(
      None if self._mesh is None else NamedSharding(self._mesh, PartitionSpec())
    )
    self._written: ByPrompt[WrittenItems] = ByPrompt(
      PromptWriter(catalogue, prompt, limits),
      self._begin,
      self._finish,
      rows=self.settings.rows,
      mesh=self._mesh,
      name=name,
      progress=progress,
    )
    self._last: list[WrittenItems] = []

  def describe(self) -> str:
    """One line for people: what ranks, and with which settings."""
    settings = self.settings
    drawn = (
      f"{settings.hypotheses} samples at temperature {settings.temperature:g}"
      if settings.search == "samples"
      else f"{settings.hypotheses} beams"
    )
    return (
      f"{drawn} along the trie of {self._trie.num_columns} item texts, "
      f"ordered by {settings.score}"
    )

  def recommend(
    self,
    histories: Sequence[np.ndarray],
    *,
    depth: int,
    rules: Sequence[str] = ("not_last",),
  ) -> dict[str, Ranking]:
    """Ranks what was written; see `protocol.Recommender`."""
    histories = protocol.check_request(
      histories, depth, rules, len(self._catalogue)
    )
    self._last = self.write(histories)
    items, scores = [], []
    for written in self._last:
      rows, places = self._columns.items(written.columns)
      items.append(rows)
      scores.append(written.scores[places])
    return {
      rule: protocol.top_listed(
        items, scores, protocol.exclusions(histories, rule), depth
      )
      for rule in rules
    }

  def write(self, histories: Sequence[np.ndarray]) -> list[WrittenItems]:
    """The texts written for each user."""
    return self._written(histories)

  def explain(self, place: int) -> list[dict[str, Any]]:
    """What was written for one user of the last call; see `Recommender`."""
    written = self._last[place]
    rows = self._columns.first_rows[written.columns]
    return [
      {
        "text": self._catalogue.texts[row],
        "log_prob": float(score),
        "samples": int(hypotheses),
        "items": [int(row)],
      }
      for row, score, hypotheses in zip(
        rows, written.scores, written.hypotheses, strict=True
      )
    ]

  def validity(self) -> dict[str, Float[np.ndarray, " B"]]:
    """Of each user of the last call: how many texts are items, and differ."""
    distinct = [len(written.columns) for written in self._last]
    return {
      "exact_samples": np.ones(len(distinct)),  # There is no other way.
      "distinct_texts": np.array(distinct) / self.settings.hypotheses,
    }

  def _begin(
    self, batch: TokenRows, prompts: list[np.ndarray]
  ) -> tuple[Prefix, Walked]:
    """Gives one batch of prompts to the device."""
    settings = self.settings
    tokens, lengths = placement.place((batch.tokens, batch.lengths), self._mesh)
    uniform = None
    if settings.search == "samples":
      uniform = uniform_rows(
        settings.seed,
        [prompts[place] for place in batch.places],
        len(batch.lengths),
        settings.hypotheses,
        self._trie.max_choices,
      )
      uniform = placement.place(uniform, self._mesh)
    prefix = read(self._decoder, self._params, tokens, lengths)
    walked = walk(
      self._decoder,
      self._params,
      prefix,
      self._arrays,
      uniform,
      bounds=self._bounds,
      hypotheses=settings.hypotheses,
      temperature=settings.temperature,
      mesh=self._mesh,
    )
    return prefix, walked

  def _finish(
    self, batch: TokenRows, begun: tuple[Prefix, Walked]
  ) -> list[WrittenItems]:
    """Orders what was written for each prompt."""
    prefix, walked = begun
    columns, log_probs = map(np.asarray, walked)
    if np.isnan(log_probs).any():
      raise DivergedError(
        "The model's choices hold NaN; a model that has diverged cannot rank."
      )
    found = [_distinct(*row) for row in zip(columns, log_probs, strict=True)]
    if self.settings.score != "walk":
      asked = np.full(columns.shape, -1, np.int32)
      for row, written in enumerate(found):
        asked[row, : len(written.columns)] = written.columns
      scores = self._score(prefix, asked, self.settings.score)
      found = [
        dataclasses.replace(written, scores=scores[row, : len(written.columns)])
        for row, written in enumerate(found)
      ]
    return [_ordered(written) for written in found[: len(batch.places)]]


def _distinct(columns: np.ndarray, log_probs: np.ndarray) -> WrittenItems:
  """One prompt's hypotheses; those of one text have the same chances."""
  real = columns >= 0
  distinct, first, counts = np.unique(
    columns[real], return_index=True, return_counts=True
  )
  return WrittenItems(distinct, log_probs[real][first], counts)


def _ordered(written: WrittenItems) -> WrittenItems:
  order = np.argsort(-written.scores, kind="stable")
  return WrittenItems(
    written.columns[order], written.scores[order], written.hypotheses[order]
  )
