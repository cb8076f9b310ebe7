"""Writing the next item's text, then finding the item: CALRec's own way.

The model samples texts for a user (section "inference" of Li et al., RecSys
2024), and `ground` matches them to the catalogue. What was sampled for a
prompt is remembered, so a fusion does not sample again.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from calrec_jax.errors import InputError
from calrec_jax.recommend.baselines.bm25 import CatalogueIndex
from calrec_jax.recommend.by_prompt import ByPrompt
from calrec_jax.recommend.domain_model import DomainModel
from calrec_jax.recommend.generate.ground import Grounder, Grounding
from calrec_jax.recommend.generate.sampling import (
  Sampler,
  Samples,
  sample,
  uniform_rows,
)
from calrec_jax.recommend.generate.texts import (
  GeneratedText,
  Spelling,
  TextReader,
  distinct_texts,
)
from calrec_jax.recommend.prompts import TokenRows
from calrec_jax.recommend.protocol import Listed, Recommender, Request, Scores


class GenerateAndGround(Recommender):
  """Samples texts of the next item and matches them to the catalogue."""

  name = "generate"
  curve_setting = "samples"

  def __init__(
    self,
    model: DomainModel,
    vocabulary: Any,
    *,
    sampler: Sampler | None = None,
    grounding: Grounding | None = None,
    index: CatalogueIndex | None = None,
    vocab_size: int | None = None,
  ):
    """Takes a trained model and its catalogue.

    Args:
      model: Model and catalogue.
      vocabulary: Turns token ids into text by `decode`.
      sampler: How texts are sampled.
      grounding: How they are matched.
      index: Index of the catalogue's texts where there is one already, with
        the settings `grounding.bm25`.
      vocab_size: First token id that is never sampled, since a model may have
        more ids than its vocabulary; by default the vocabulary's size.

    Raises:
      ValueError: if the index was built with other settings.
      InputError: if the model is too small for the vocabulary.
    """
    self.num_items = len(model.catalogue)
    self.sampler = sampler or Sampler()
    self._model = model
    grounding = grounding or Grounding()
    index = index or CatalogueIndex(model.catalogue.texts, grounding.bm25)
    if index.settings != grounding.bm25:
      raise ValueError(
        f"The index was built with {index.settings}, but Grounding.bm25 is "
        f"{grounding.bm25}."
      )
    self._grounder = Grounder(index, grounding)
    self._vocab_size = _vocab_size(model.decoder, vocabulary, vocab_size)
    longest = int(model.catalogue.lengths.max())
    self._steps = self.sampler.max_new_tokens or longest
    self._reader = TextReader(model.catalogue, vocabulary)
    self._sampled: ByPrompt[tuple[Spelling, ...]] = ByPrompt(
      model, self._begin, self._finish, rows=self.sampler.rows
    )
    self._last: list[tuple[GeneratedText, ...]] = []

  def describe(self) -> str:
    """One human-readable line: what ranks, and with which settings."""
    sampler, grounding = self.sampler, self._grounder.settings
    return (
      f"{sampler.samples} texts a user at temperature {sampler.temperature:g}, "
      f"at most {self._steps} tokens each, matched by BM25 "
      f"({grounding.bm25.method}, k1={grounding.bm25.k1}, "
      f"b={grounding.bm25.b}), quasi-round-robin with "
      f"epsilon {grounding.epsilon:g}"
      + (f", {grounding.describe()}" if grounding.describe() else "")
    )

  def _score(self, request: Request) -> Listed:
    self._last = self.write(request.histories)
    return self._grounder.rank(self._last, request.reach)

  def _score_curve(self, request: Request) -> Mapping[int | float, Scores]:
    """Scores by number of samples, as a run with only these would give."""
    spellings = self._sampled(request.histories)
    counts = [2**power for power in range(self.sampler.samples.bit_length())]
    return {
      count: self._grounder.rank(
        [distinct_texts(spelled, count) for spelled in spellings], request.reach
      )
      for count in {*counts, self.sampler.samples}
    }

  def write(
    self, histories: Sequence[np.ndarray]
  ) -> list[tuple[GeneratedText, ...]]:
    """The distinct texts written for each user, the likeliest first."""
    samples = self.sampler.samples
    return [
      distinct_texts(spelled, samples) for spelled in self._sampled(histories)
    ]

  def explain(self, position: int) -> list[dict[str, Any]]:
    """What was written for one user of the last call; see `Recommender`."""
    return [
      {
        "text": written.text,
        "log_prob": written.log_prob,
        "samples": written.samples,
        "items": [self._grounder.best_row(written.text)],
      }
      for written in self._last[position]
    ]

  def validity(self) -> Mapping[str, Float[np.ndarray, " B"]]:
    """How sound the texts of each user of the last call are.

    Returns:
      `exact_samples`: fraction of samples that spell an item of the catalogue;
      `ended_samples`: fraction that the model closed by the end marker;
      `distinct_texts`: distinct texts of a user, over the number of samples;
      `distinct_exact_texts`: fraction of those texts that spell an item.
    """
    users, rows = self._last, self._grounder.index.rows
    exact = [[text.text in rows for text in texts] for texts in users]
    samples = [[text.samples for text in texts] for texts in users]
    ended = [sum(t.samples for t in texts if t.ended) for texts in users]
    total = np.array([sum(numbers) for numbers in samples])
    hits = [np.dot(*pair) for pair in zip(exact, samples, strict=True)]
    return {
      "exact_samples": np.array(hits) / total,
      "ended_samples": np.array(ended) / total,
      "distinct_texts": np.array([len(texts) for texts in users]) / total,
      "distinct_exact_texts": np.array([np.mean(flags) for flags in exact]),
    }

  def _begin(self, batch: TokenRows) -> Samples:
    """Gives one batch of prompts to the device."""
    settings, model = self.sampler, self._model
    uniform = uniform_rows(
      settings.seed,
      batch.sequences,
      len(batch.lengths),
      settings.samples,
      self._steps,
    )
    arrays = model.place((batch.tokens, batch.lengths, uniform))
    return sample(
      model.decoder,
      model.params,
      *arrays,
      temperature=settings.temperature,
      end_token=model.prompt.end,
      vocab_size=self._vocab_size,
      mesh=model.mesh,
    )

  def _finish(
    self, batch: TokenRows, samples: Samples
  ) -> list[tuple[Spelling, ...]]:
    """Reads what was sampled, and matches it while the device continues."""
    samples = Samples(*map(np.asarray, samples))
    found = [
      self._reader.spellings(samples, row) for row in range(len(batch.indices))
    ]
    texts = {spelling.text for spelled in found for spelling in spelled}
    self._grounder.prepare(sorted(texts))
    return found


def _vocab_size(decoder: Any, vocabulary: Any, given: int | None) -> int:
  """How many token ids may be sampled."""
  room = decoder.config.vocab_size
  if given is None:
    given = getattr(vocabulary, "size", None)
  if given is not None and given > room:
    raise InputError(
      f"The vocabulary has {given} tokens, but DecoderConfig.vocab_size is "
      f"{room}. Was the model trained with another vocabulary?"
    )
  return given or room
