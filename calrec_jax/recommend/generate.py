"""Writing the next item's text, then finding the item: CALRec's own way.

The model samples texts for a user (section "inference" of Li et al., RecSys
2024), and `ground` matches them to the catalogue. What was sampled for a
prompt is kept: the same prompt gives the same samples, so a fusion that asks
again pays nothing.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tqdm
from jax.sharding import Mesh
from jaxtyping import Float

from calrec_jax.data.records import Catalogue, PromptTokens
from calrec_jax.recommend import placement, protocol
from calrec_jax.recommend.bm25 import CatalogueIndex
from calrec_jax.recommend.ground import Grounder, Grounding
from calrec_jax.recommend.prompts import (
  PromptLimits,
  PromptWriter,
  TokenRows,
  token_rows,
)
from calrec_jax.recommend.protocol import Ranking
from calrec_jax.recommend.sampling import (
  Sampler,
  Samples,
  prompt_number,
  sample,
  uniform_numbers,
)

_SCORE_BYTES = 2**26  # Scores of whole catalogues that exist at once.


@dataclasses.dataclass(frozen=True)
class GeneratedText:
  """One distinct text that was written for a user.

  Attributes:
    text: the words, without the end marker.
    log_prob: log-probability of the most likely sample that spells it, in
      nats.
    samples: how many samples spell it.
    ended: whether the model closed it by the end marker.
  """

  text: str
  log_prob: float
  samples: int
  ended: bool


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
        more ids than its vocabulary. None takes the vocabulary's own number
        (`get_piece_size` of SentencePiece) where it says one.
      mesh: where rows are spread; by default the mesh that is set, if any.
      progress: whether to show a progress bar while sampling.
      name: key in the metrics file.

    Raises:
      ValueError: if the index was built with other settings.
    """
    self.name = name
    self.sampler = sampler or Sampler()
    self._decoder, self._params = decoder, params
    self._prompt, self._vocabulary = prompt, vocabulary
    self._prompts = PromptWriter(catalogue, prompt, limits)
    self._mesh, self._progress = placement.mesh_in_use(mesh), progress
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
    self._catalogue_texts = {
      catalogue.tokens(int(row)).tobytes(): catalogue.texts[row]
      for row in np.unique(catalogue.twins)
    }
    self._written: dict[bytes, tuple[GeneratedText, ...]] = {}
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
    users = max(1, _SCORE_BYTES // (4 * num_items))
    parts = []
    for start in range(0, max(1, len(histories)), users):
      scores = self._scores(self._last[start : start + users])
      parts.append(
        protocol.rank_scores(
          scores, histories[start : start + users], depth, rules
        )
      )
    return {
      rule: Ranking(
        *map(np.concatenate, zip(*(part[rule] for part in parts), strict=True))
      )
      for rule in rules
    }

  def write(
    self, histories: Sequence[np.ndarray]
  ) -> list[tuple[GeneratedText, ...]]:
    """The distinct texts written for each user, the likeliest first."""
    prompts = [self._prompts.user(history) for history in histories]
    keys = [prompt.tobytes() for prompt in prompts]
    missing = {
      key: prompt
      for key, prompt in zip(keys, prompts, strict=True)
      if key not in self._written
    }
    rows = placement.whole_rows(self.sampler.rows, self._mesh)
    new_keys, new_prompts = list(missing), list(missing.values())
    bar = tqdm.tqdm(
      total=len(missing),
      desc=self.name,
      unit="prompt",
      leave=False,
      disable=not self._progress,
    )
    with bar:
      for batch in token_rows(
        new_prompts, rows, self._prompts.limits.smallest_length
      ):
        samples = self._sample(batch, new_prompts)
        for row, place in enumerate(batch.places):
          self._written[new_keys[place]] = self._texts(samples, row)
        bar.update(len(batch.places))
    return [self._written[key] for key in keys]

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

  def validity(self) -> dict[str, float]:
    """How sound the texts of the last call are, averaged over its users.

    Returns:
      `exact_samples`: share of samples that spell an item of the catalogue;
      `ended_samples`: share that the model closed by the end marker;
      `distinct_texts`: distinct texts of a user, over the number of samples;
      `distinct_exact_texts`: how many of the distinct texts spell an item.
    """
    users = [self._counts(texts) for texts in self._last]
    return {
      key: float(np.mean([user[key] for user in users])) if users else 0.0
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

  def _scores(
    self, written: Sequence[tuple[GeneratedText, ...]]
  ) -> Float[np.ndarray, "B N"]:
    scores = [
      self._grounder.scores(
        [text.text for text in texts],
        np.array([text.log_prob for text in texts], np.float32),
      )
      for texts in written
    ]
    return np.array(scores, np.float32).reshape(-1, len(self._grounder.index))

  def _sample(self, batch: TokenRows, prompts: list[np.ndarray]) -> Samples:
    """Samples for one batch of prompts, on the host."""
    settings = self.sampler
    shape = (len(batch.lengths), settings.samples, self._steps)
    uniform = np.zeros(shape, np.float32)
    for row, place in enumerate(batch.places):
      uniform[row] = uniform_numbers(
        settings.seed, prompt_number(prompts[place]), *shape[1:]
      )
    arrays = placement.place((batch.tokens, batch.lengths, uniform), self._mesh)
    samples = sample(
      self._decoder,
      self._params,
      *arrays,
      temperature=settings.temperature,
      end_token=self._prompt.end,
      vocab_size=self._vocab_size,
      mesh=self._mesh,
    )
    return Samples(*map(np.asarray, samples))

  def _texts(self, samples: Samples, row: int) -> tuple[GeneratedText, ...]:
    """The distinct texts of one prompt's samples, the likeliest first."""
    found: dict[str, GeneratedText] = {}
    spelled: collections.Counter[bytes] = collections.Counter()
    first: dict[bytes, int] = {}
    for number, length in enumerate(samples.lengths[row]):
      key = samples.tokens[row, number, :length].tobytes()
      spelled[key] += 1
      first.setdefault(key, number)
    for key, count in spelled.items():
      number = first[key]
      ended = bool(samples.ended[row, number])
      text = self._decode(key, ended)
      log_prob = float(samples.log_probs[row, number])
      known = found.get(text, GeneratedText(text, -np.inf, 0, False))
      found[text] = GeneratedText(
        text,
        max(known.log_prob, log_prob),
        known.samples + count,
        known.ended or ended,
      )
    return tuple(sorted(found.values(), key=lambda t: (-t.log_prob, t.text)))

  def _decode(self, key: bytes, ended: bool) -> str:
    """The text of a sample; an item's own where the tokens are an item's."""
    if key in self._catalogue_texts:
      return self._catalogue_texts[key]
    ids = np.frombuffer(key, np.int32).tolist()
    return self._vocabulary.decode(ids[:-1] if ended else ids).strip()


def _vocab_size(decoder: Any, vocabulary: Any, given: int | None) -> int:
  """How many token ids may be drawn."""
  room = decoder.config.vocab_size
  if given is None and hasattr(vocabulary, "get_piece_size"):
    given = vocabulary.get_piece_size()
  if given is not None and given > room:
    raise ValueError(
      f"The vocabulary has {given} tokens, but DecoderConfig.vocab_size is "
      f"{room}. Was the model trained with another vocabulary?"
    )
  return given or room
