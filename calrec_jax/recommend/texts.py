"""From sampled token ids to the distinct texts that they spell.

Tested in `tests/unit/recommend/test_generate.py`.
"""

import collections
import dataclasses
from typing import Any

import numpy as np

from calrec_jax.data.records import Catalogue
from calrec_jax.recommend.sampling import Samples


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


class TextReader:
  """Turns samples into texts; an item's tokens into the item's own text."""

  def __init__(self, catalogue: Catalogue, vocabulary: Any):
    """Takes the items, and what turns token ids into text by `decode`."""
    self._vocabulary = vocabulary
    self._items = {
      _key(catalogue.tokens(int(row))): catalogue.texts[row]
      for row in np.unique(catalogue.twins)
    }

  def distinct_texts(
    self, samples: Samples, row: int
  ) -> tuple[GeneratedText, ...]:
    """What the samples of one prompt spell, the likeliest first.

    Args:
      samples: of a batch of prompts, on the host.
      row: the prompt.
    """
    counts: collections.Counter[bytes] = collections.Counter()
    first: dict[bytes, int] = {}
    for number, length in enumerate(samples.lengths[row]):
      key = _key(samples.tokens[row, number, :length])
      counts[key] += 1
      first.setdefault(key, number)
    found: dict[str, GeneratedText] = {}
    for key, number in first.items():
      ended = bool(samples.ended[row, number])
      text = self._text(key, ended)
      # Several token sequences may spell one text.
      known = found.get(text, GeneratedText(text, -np.inf, 0, False))
      found[text] = GeneratedText(
        text,
        max(known.log_prob, float(samples.log_probs[row, number])),
        known.samples + counts[key],
        known.ended or ended,
      )
    return tuple(sorted(found.values(), key=lambda t: (-t.log_prob, t.text)))

  def _text(self, key: bytes, ended: bool) -> str:
    if key in self._items:
      return self._items[key]
    ids = np.frombuffer(key, np.int32).tolist()
    return self._vocabulary.decode(ids[:-1] if ended else ids).strip()


def _key(tokens: np.ndarray) -> bytes:
  return np.asarray(tokens, np.int32).tobytes()
