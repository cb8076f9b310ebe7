"""Writing the next item's text, then finding the item: CALRec's own way.

The model samples texts for a user (section "inference" of Li et al., RecSys
2024), and `ground` matches them to the catalogue. What was sampled for a
prompt is kept: the same prompt gives the same samples, so a fusion that asks
again pays nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from calrec_jax.data.records import Catalogue, PromptTokens
from calrec_jax.errors import InputError
from calrec_jax.metrics.ranking import Ranking
from calrec_jax.recommend import protocol
from calrec_jax.recommend.baselines.bm25 import CatalogueIndex
from calrec_jax.recommend.by_prompt import ByPrompt
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
from calrec_jax.recommend.prompts import PromptLimits, PromptWriter, TokenRows
from calrec_jax.runtime import placement


class GenerateAndGround:
  """Samples texts of the next item and matches them to the catalogue."""

  def __init__(
    self,
    decoder: Any,
    params: Any,
    catalogue: Catalogue,
    prompt: PromptTokens,
    vocabulary: Any,
    *,
    sampler: Sampler | None = None,
    grounding: Grounding | None = None,
    index: CatalogueIndex | None = None,
    limits: PromptLimits | None = None,
    vocab_size: int | None = None,
    mesh: Mesh | None = None,
    progress: bool = False,
    name: str = "generate",
  ):
    """Takes a trained model and a catalogue.

    Args:
      decoder: the module of the model.
      params: its parameters.
      catalogue: the items.
      prompt: pieces of the prompt, as in training.
      vocabulary: turns token ids into text by `decode`.
      sampler: how texts are drawn.
      grounding: how they are matched.
      index: the catalogue's texts where they are indexed already, with the
        settings `grounding.bm25`.
      limits: how much of a history is read.
      vocab_size: token ids from here on are never drawn: a model has room for
        more ids than its vocabulary. None takes the vocabulary's `size` where
        it has one.
      mesh: where rows are spread; by default the mesh that is set, if any.
      progress: whether to show a progress bar while sampling.
      name: key in the metrics file.

    Raises:
      ValueError: if the index was built with other settings, or the model
        has no room for the vocabulary.
    """
    self.name = name
    self.sampler = sampler or Sampler()
    self._decoder, self._params = decoder, params
    self._end_token = prompt.end
    self._prompts = PromptWriter(catalogue, prompt, limits)
    self._mesh = placement.mesh_in_use(mesh)
    grounding = grounding or Grounding()
    index = index or CatalogueIndex(catalogue.texts, grounding.bm25)
    if index.settings != grounding.bm25:
      raise ValueError(
        f"The index was built with {index.settings}, but Grounding.bm25 is "
        f"{grounding.bm25}."
      )
    self._grounder = Grounder(index, grounding)
    self._vocab_size = _vocab_size(decoder, vocabulary, vocab_size)
    self._steps = self.sampler.max_new_tokens or int(catalogue.lengths.max())
    self._reader = TextReader(catalogue, vocabulary)
    self._sampled: ByPrompt[tuple[Spelling, ...]] = ByPrompt(
      self._prompts,
      self._begin,
      self._finish,
      rows=self.sampler.rows,
      mesh=self._mesh,
      name=name,
      progress=progress,
    )
    self._last: list[tuple[GeneratedText, ...]] = []

  def describe(self) -> str:
    """One line for people: what ranks, and with which settings."""
    sampler, grounding = self.sampler, self._grounder.settings
    return (
      f"{sampler.samples} texts a user at temperature {sampler.temperature:g}, "
      f"at most {self._steps} tokens each, matched by BM25 "
      f"({grounding.bm25.method}, k1={grounding.bm25.k1}, "
      f"b={grounding.bm25.b}), quasi-round-robin with "
      f"epsilon {grounding.epsilon:g}"
      + (f", {grounding.describe()}" if grounding.describe() else "")
    )

  def recommend(
    self,
    histories: Sequence[np.ndarray],
    *,
    depth: int,
    rules: Sequence[str] = ("not_last",),
  ) -> dict[str, Ranking]:
    """Ranks by generated texts; see `protocol.Recommender`."""
    num_items = len(self._grounder.index)
    histories = protocol.check_request(histories, depth, rules, num_items)
    self._last = self.write(histories)
    return self._grounder.rank(self._last, histories, depth, rules)

  def recommend_curve(
    self,
    histories: Sequence[np.ndarray],
    *,
    depth: int,
    rules: Sequence[str] = ("not_last",),
  ) -> protocol.Curve:
    """Ranks by fewer of the samples; see `protocol.Recommender`.

    Fewer samples are the first ones of more: each point of the curve is what a
    run with so many samples gives.
    """
    num_items = len(self._grounder.index)
    histories = protocol.check_request(histories, depth, rules, num_items)
    spellings = self._sampled(histories)
    counts = [2**power for power in range(self.sampler.samples.bit_length())]
    return protocol.Curve(
      "samples",
      {
        count: self._grounder.rank(
          [distinct_texts(spelled, count) for spelled in spellings],
          histories,
          depth,
          rules,
        )
        for count in sorted({*counts, self.sampler.samples})
      },
    )

  def write(
    self, histories: Sequence[np.ndarray]
  ) -> list[tuple[GeneratedText, ...]]:
    """The distinct texts written for each user, the likeliest first."""
    samples = self.sampler.samples
    return [
      distinct_texts(spelled, samples) for spelled in self._sampled(histories)
    ]

  def explain(self, place: int) -> list[dict[str, Any]]:
    """What was written for one user of the last call, the likeliest first.

    Args:
      place: the user's place in that call.

    Returns:
      For each distinct text its `text`, its `log_prob` in nats, the number of
      `samples` that spell it, and as `items` the row it stands for.
    """
    return [
      {
        "text": written.text,
        "log_prob": written.log_prob,
        "samples": written.samples,
        "items": [self._grounder.best_row(written.text)],
      }
      for written in self._last[place]
    ]

  def validity(self) -> dict[str, Float[np.ndarray, " B"]]:
    """How sound the texts of each user of the last call are.

    Returns:
      `exact_samples`: share of samples that spell an item of the catalogue;
      `ended_samples`: share that the model closed by the end marker;
      `distinct_texts`: distinct texts of a user, over the number of samples;
      `distinct_exact_texts`: share of a user's distinct texts that spell one.
    """
    users = [self._counts(texts) for texts in self._last]
    return {
      key: np.array([user[key] for user in users])
      for key in (
        "exact_samples",
        "ended_samples",
        "distinct_texts",
        "distinct_exact_texts",
      )
    }

  def _counts(self, texts: tuple[GeneratedText, ...]) -> dict[str, float]:
    exact = [text.text in self._grounder.index.rows for text in texts]
    samples = [text.samples for text in texts]
    total = sum(samples)
    return {
      "exact_samples": float(np.dot(exact, samples)) / total,
      "ended_samples": sum(t.samples for t in texts if t.ended) / total,
      "distinct_texts": len(texts) / total,
      "distinct_exact_texts": float(np.mean(exact)),
    }

  def _begin(self, batch: TokenRows, prompts: list[np.ndarray]) -> Samples:
    """Gives one batch of prompts to the device."""
    settings = self.sampler
    uniform = uniform_rows(
      settings.seed,
      [prompts[place] for place in batch.places],
      len(batch.lengths),
      settings.samples,
      self._steps,
    )
    arrays = placement.place((batch.tokens, batch.lengths, uniform), self._mesh)
    return sample(
      self._decoder,
      self._params,
      *arrays,
      temperature=settings.temperature,
      end_token=self._end_token,
      vocab_size=self._vocab_size,
      mesh=self._mesh,
    )

  def _finish(
    self, batch: TokenRows, samples: Samples
  ) -> list[tuple[Spelling, ...]]:
    """Reads what was sampled, and matches it while the device goes on."""
    samples = Samples(*map(np.asarray, samples))
    found = [
      self._reader.spellings(samples, row) for row in range(len(batch.places))
    ]
    texts = {spelling.text for spelled in found for spelling in spelled}
    self._grounder.prepare(sorted(texts))
    return found


def _vocab_size(decoder: Any, vocabulary: Any, given: int | None) -> int:
  """How many token ids may be drawn."""
  room = decoder.config.vocab_size
  if given is None:
    given = getattr(vocabulary, "size", None)
  if given is not None and given > room:
    raise InputError(
      f"The vocabulary has {given} tokens, but DecoderConfig.vocab_size is "
      f"{room}. Was the model trained with another vocabulary?"
    )
  return given or room
