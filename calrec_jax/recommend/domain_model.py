"""A language model with the catalogue that it ranks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from calrec_jax.data.records import Catalogue, PromptTokens
from calrec_jax.recommend.constrain import trie
from calrec_jax.recommend.dense.unique_texts import UniqueTexts
from calrec_jax.recommend.prompts import PromptLimits, PromptWriter
from calrec_jax.runtime import placement


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DomainModel:
  """What the recommenders of a language model have in common.

  Attributes:
    decoder: Module of the model.
    params: Parameters of the decoder.
    catalogue: Items of the domain, N.
    prompt: Pieces of the prompt, as in training.
    limits: How much of a history is read.
    mesh: Devices that rows and item vectors are spread over; by default the
      mesh that is set, if any.
    temperature: Temperature that the two towers were trained with; None where
      it is not known.
  """

  decoder: Any
  params: Any
  catalogue: Catalogue
  prompt: PromptTokens
  limits: PromptLimits = dataclasses.field(default_factory=PromptLimits)
  mesh: Mesh | None = None
  temperature: float | None = None

  def __post_init__(self):
    object.__setattr__(self, "mesh", placement.mesh_in_use(self.mesh))

  @functools.cached_property
  def prompts(self) -> PromptWriter:
    """Writes the prompts of the domain's users."""
    return PromptWriter(self.catalogue, self.prompt, self.limits)

  @functools.cached_property
  def texts(self) -> UniqueTexts:
    """Which items have identical texts."""
    return UniqueTexts(self.catalogue.text_rows)

  @functools.cached_property
  def text_tokens(self) -> trie.Texts:
    """The tokens of each unique text, end marker included."""
    items = trie.Texts(self.catalogue.values, self.catalogue.offsets)
    return items.take(self.texts.first_rows)

  def place(self, arrays: Any) -> Any:
    """NumPy arrays on the devices, their rows spread over the mesh."""
    return placement.place(arrays, self.mesh)

  def whole_rows(self, rows: int) -> int:
    """See `placement.whole_rows`."""
    return placement.whole_rows(rows, self.mesh)

  def history_prompts(
    self, histories: Sequence[np.ndarray]
  ) -> list[np.ndarray]:
    """The prompt of each history, int32[P]."""
    return [self.prompts.user(history) for history in histories]
