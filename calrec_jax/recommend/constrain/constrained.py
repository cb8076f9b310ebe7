"""Writing items of the catalogue, and nothing else.

The model's hypotheses walk along the trie of the catalogue's texts (`walk`),
so everything it writes is an item, at any temperature, and the text need not be
matched to the catalogue afterwards.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float

from calrec_jax.errors import (
  DivergedError,
  above,
  at_least,
  check,
  integer,
  one_of,
)
from calrec_jax.recommend.by_prompt import ByPrompt
from calrec_jax.recommend.constrain import trie
from calrec_jax.recommend.constrain.text_scores import SCORES, TextScorer
from calrec_jax.recommend.constrain.walk import Walked, bounds, walk
from calrec_jax.recommend.domain_model import DomainModel
from calrec_jax.recommend.generate.sampling import uniform_rows
from calrec_jax.recommend.prefix import Prefix, read
from calrec_jax.recommend.prompts import TokenRows
from calrec_jax.recommend.protocol import Listed, Recommender, Request


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Constrained:
  """How items are written.

  Attributes:
    search: `beams` for the most probable items, `samples` to sample them.
    hypotheses: Beams or samples of a user: the most items of a list.
    score: Score that orders them: `walk` counts only choices among real items,
      not forced tokens; `sum` is the model's own log-probability of the whole
      text; `mean` is that over its tokens. The last two read every text again.
    temperature: Divisor of the logits before sampling; not for beams.
    seed: Seed of all samples.
    rows: Users in one program.
  """

  search: str = "beams"
  hypotheses: int = 32
  score: str = "walk"
  temperature: float = 0.5
  seed: int = 0
  rows: int = 16

  def __post_init__(self):
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
    texts: int32[K], ids of unique texts.
    scores: float32[K], see `Constrained.score`.
    hypotheses: int32[K], number of hypotheses that wrote each.
  """

  texts: np.ndarray
  scores: np.ndarray
  hypotheses: np.ndarray


class ConstrainedItems(Recommender):
  """Ranks the items that the model writes; at most `hypotheses` texts."""

  name = "constrained"

  def __init__(
    self, model: DomainModel, *, settings: Constrained | None = None
  ):
    """Builds the trie of a catalogue.

    Args:
      model: Model and catalogue.
      settings: How items are written.
    """
    self.num_items = len(model.catalogue)
    self.settings = settings or Constrained()
    self._model = model
    self._trie = trie.build(model.text_tokens)
    self._bounds = bounds(
      self._trie,
      self.settings.hypotheses,
      beams=self.settings.search == "beams",
    )
    self._text_scores = TextScorer(model)
    self._arrays = self._trie.on_device(
      None if model.mesh is None else NamedSharding(model.mesh, PartitionSpec())
    )
    self._written: ByPrompt[WrittenItems] = ByPrompt(
      model, self._begin, self._finish, rows=self.settings.rows
    )
    self._last: list[WrittenItems] = []

  def describe(self) -> str:
    """One human-readable line: what ranks, and with which settings."""
    settings = self.settings
    search = (
      f"{settings.hypotheses} samples at temperature {settings.temperature:g}"
      if settings.search == "samples"
      else f"{settings.hypotheses} beams"
    )
    return (
      f"{search} along the trie of {self._trie.num_texts} item texts, "
      f"ordered by {settings.score}"
    )

  def _score(self, request: Request) -> Listed:
    self._last = self.write(request.histories)
    items, scores = [], []
    for written in self._last:
      rows, positions = self._model.texts.items(written.texts)
      items.append(rows)
      scores.append(written.scores[positions])
    return Listed(items, scores)

  def write(self, histories: Sequence[np.ndarray]) -> list[WrittenItems]:
    """The texts written for each user."""
    return self._written(histories)

  def explain(self, position: int) -> list[dict[str, Any]]:
    """What was written for one user of the last call; see `Recommender`."""
    written = self._last[position]
    rows = self._model.texts.first_rows[written.texts]
    return [
      {
        "text": self._model.catalogue.texts[row],
        "log_prob": float(score),
        "samples": int(hypotheses),
        "items": [int(row)],
      }
      for row, score, hypotheses in zip(
        rows, written.scores, written.hypotheses, strict=True
      )
    ]

  def validity(self) -> Mapping[str, Float[np.ndarray, " B"]]:
    """Of each user of the last call: how many texts are items, and differ."""
    distinct = [len(written.texts) for written in self._last]
    return {
      "exact_samples": np.ones(len(distinct)),  # There is no other way.
      "distinct_texts": np.array(distinct) / self.settings.hypotheses,
    }

  def _begin(self, batch: TokenRows) -> tuple[Prefix, Walked]:
    """Gives one batch of prompts to the device."""
    settings, model = self.settings, self._model
    tokens, lengths = model.place((batch.tokens, batch.lengths))
    uniform = None
    if settings.search == "samples":
      uniform = uniform_rows(
        settings.seed,
        batch.sequences,
        len(batch.lengths),
        settings.hypotheses,
        self._trie.max_choices,
      )
      uniform = model.place(uniform)
    prefix = read(model.decoder, model.params, tokens, lengths)
    walked = walk(
      model.decoder,
      model.params,
      prefix,
      self._arrays,
      uniform,
      bounds=self._bounds,
      hypotheses=settings.hypotheses,
      temperature=settings.temperature,
      mesh=model.mesh,
    )
    return prefix, walked

  def _finish(
    self, batch: TokenRows, begun: tuple[Prefix, Walked]
  ) -> list[WrittenItems]:
    """Orders what was written for each prompt."""
    prefix, walked = begun
    texts, log_probs = map(np.asarray, walked)
    if np.isnan(log_probs).any():
      raise DivergedError(
        "The model's choices hold NaN; a model that has diverged cannot rank."
      )
    found = [_distinct(*row) for row in zip(texts, log_probs, strict=True)]
    if self.settings.score != "walk":
      requested = np.full(texts.shape, -1, np.int32)
      for row, written in enumerate(found):
        requested[row, : len(written.texts)] = written.texts
      scores = self._text_scores(prefix, requested, self.settings.score)
      found = [
        dataclasses.replace(written, scores=scores[row, : len(written.texts)])
        for row, written in enumerate(found)
      ]
    return [_ordered(written) for written in found[: len(batch.indices)]]


def _distinct(texts: np.ndarray, log_probs: np.ndarray) -> WrittenItems:
  """One prompt's hypotheses; those of one text have the same chances."""
  real = texts >= 0
  distinct, first, counts = np.unique(
    texts[real], return_index=True, return_counts=True
  )
  return WrittenItems(distinct, log_probs[real][first], counts)


def _ordered(written: WrittenItems) -> WrittenItems:
  order = np.argsort(-written.scores, kind="stable")
  return WrittenItems(
    written.texts[order], written.scores[order], written.hypotheses[order]
  )
