"""From sampled token ids to the distinct texts that they spell.

Tested in `tests/unit/recommend/test_generate.py`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from calrec_jax.data.records import Catalogue
from calrec_jax.recommend.generate.sampling import Samples


@dataclasses.dataclass(frozen=True)
class GeneratedText:
  """One distinct text that was written for a user.

  Attributes:
    text: Text without the end marker.
    log_prob: Log-probability of the likeliest sample that spells it, in nats.
    samples: Number of samples that spell it.
    tokens: Length of the likeliest such sample, end marker included.
    ended: Whether the model closed it by the end marker.
  """

  text: str
  log_prob: float
  samples: int
  tokens: int
  ended: bool


@dataclasses.dataclass(frozen=True)
class Spelling:
  """One distinct token sequence that was sampled for a user.

  Attributes:
    text: Text, which several token sequences may spell.
    log_prob: Log-probability of the sequence, in nats.
    numbers: Indices of the samples that are this sequence, ascending.
    tokens: Length of the sequence, end marker included.
    ended: Whether the model closed it by the end marker.
  """

  text: str
  log_prob: float
  numbers: tuple[int, ...]
  tokens: int
  ended: bool


class TextReader:
  """Turns samples into texts; an item's tokens into the item's own text."""

  def __init__(self, catalogue: Catalogue, vocabulary: Any):
    """Takes the items, and what turns token ids into text by `decode`."""
    self._vocabulary = vocabulary
    self._items = {
      _key(catalogue.tokens(int(row))): catalogue.texts[row]
      for row in np.unique(catalogue.text_rows)
    }

  def spellings(self, samples: Samples, row: int) -> tuple[Spelling, ...]:
    """The distinct sequences that were sampled for one prompt.

    Args:
      samples: Samples of a batch of prompts, on the host.
      row: Index of the prompt.
    """
    numbers: dict[bytes, list[int]] = {}
    for number, length in enumerate(samples.lengths[row]):
      key = _key(samples.tokens[row, number, :length])
      numbers.setdefault(key, []).append(number)
    spellings = []
    for key, same in numbers.items():
      at = row, same[0]
      ended, text = bool(samples.ended[at]), self._items.get(key)
      if text is None:
        ids = np.frombuffer(key, np.int32).tolist()
        text = self._vocabulary.decode(ids[:-1] if ended else ids).strip()
      log_prob, tokens = float(samples.log_probs[at]), int(samples.lengths[at])
      spellings.append(Spelling(text, log_prob, tuple(same), tokens, ended))
    return tuple(spellings)


def distinct_texts(
  spellings: Sequence[Spelling], samples: int
) -> tuple[GeneratedText, ...]:
  """The texts that the first samples of one prompt spell, likeliest first.

  Args:
    spellings: Spellings of the prompt.
    samples: Number of its samples that count.
  """
  found: dict[str, GeneratedText] = {}
  for spelling in spellings:
    count = sum(number < samples for number in spelling.numbers)
    if not count:
      continue
    text = GeneratedText(
      spelling.text, spelling.log_prob, count, spelling.tokens, spelling.ended
    )
    known = found.get(spelling.text)
    if known is not None:
      likelier = max(known, text, key=lambda one: one.log_prob)
      text = dataclasses.replace(
        likelier, samples=known.samples + count, ended=known.ended or text.ended
      )
    found[spelling.text] = text
  return tuple(sorted(found.values(), key=lambda t: (-t.log_prob, t.text)))


def _key(tokens: np.ndarray) -> bytes:
  return np.asarray(tokens, np.int32).tobytes()
