"""BM25 of texts against every item of a catalogue at once.

The `bm25s` library builds the matrix of word weights. A text's scores are the
sum of its words' rows, in the order of the words; rows of frequent words are
stored whole, which adds them several times as fast as item by item. Equality
with the library and with a plain loop is tested in
`tests/reference/test_bm25_reference.py`.
"""

import collections
import dataclasses
import logging
import re
from collections.abc import Sequence

import bm25s
import gin
import numpy as np
import scipy.sparse
from jaxtyping import Float

from calrec_jax.errors import (
  InputError,
  at_least,
  check,
  one_of,
  refuse,
  within,
)
from calrec_jax.recommend.dense.unique_texts import UniqueTexts

logging.getLogger("bm25s").setLevel(logging.WARNING)  # It reports each index.

# Those where an absent word adds 0.
_METHODS = ("lucene", "robertson", "atire")
# A word that more than this fraction of the texts has is stored as a whole row.
_FREQUENT = 1 / 16


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class BM25:
  """How words of a text are weighed (Robertson and Zaragoza, 2009).

  CALRec reports that its constants need no tuning; these are the usual ones.

  Attributes:
    k1: Saturation of repeated words, at least 0.
    b: Discount of long texts, 0 to 1.
    method: Variant of the weights, `lucene` (never negative), `robertson` or
      `atire`.
    word_pattern: Regular expression of a word. Single characters are words
      here: in a catalogue they are sizes and counts.
    lower_case: Whether capital letters are folded.
  """

  k1: float = 1.5
  b: float = 0.75
  method: str = "lucene"
  word_pattern: str = r"\w+"
  lower_case: bool = True

  def __post_init__(self):
    check(self, k1=at_least(0), b=within("[0, 1]"), method=one_of(*_METHODS))
    try:
      re.compile(self.word_pattern)
    except re.error as error:
      refuse(self, "word_pattern", f"is no regular expression: {error}.")

  def words(self, text: str) -> list[str]:
    """The words of a text, in order, with repeats."""
    if self.lower_case:
      text = text.lower()
    return re.findall(self.word_pattern, text)


class CatalogueIndex:
  """The item texts of one catalogue, ready to be searched.

  Word statistics count every item, but items with identical text are scored
  once: they get the same score to the last bit.

  Attributes:
    settings: The `BM25` it was built with.
    rows: Smallest catalogue row of each text.
    unique: The M unique texts.
    ids: int32[N], the unique text of each catalogue row.
    num_texts: Number of unique texts, M.
  """

  def __init__(self, texts: Sequence[str], settings: BM25 | None = None):
    """Indexes the texts of a catalogue, in the order of its rows.

    Raises:
      InputError: if there is no text, or no word in any of them.
    """
    self.settings = settings or BM25()
    words = [self.settings.words(text) for text in texts]
    if not any(words):
      raise InputError(
        f"None of the {len(words)} item texts holds a word that matches "
        f"BM25.word_pattern = {self.settings.word_pattern!r}."
      )
    self.rows: dict[str, int] = {}
    for row, text in enumerate(texts):
      self.rows.setdefault(text, row)
    self.unique = UniqueTexts(np.array([self.rows[text] for text in texts]))
    self.ids, self.num_texts = self.unique.ids, len(self.unique)
    weights, self._vocabulary = _word_weights(words, self.settings)
    weights = weights[:, self.unique.first_rows].tocsr()
    self._ends = weights.indptr
    self._where = weights.indices.astype(np.intp)  # No cast in every sum.
    self._weights = weights.data
    frequent = np.flatnonzero(np.diff(self._ends) > _FREQUENT * self.num_texts)
    self._whole = {int(word): weights[[word]].toarray()[0] for word in frequent}

  def __len__(self) -> int:
    return len(self.ids)

  def text_scores(self, text: str) -> Float[np.ndarray, " M"]:
    """BM25 of a text against every unique item text.

    A word that the text repeats counts each time; a word of no item is ignored.
    """
    scores = np.zeros(self.num_texts, np.float32)
    for word, count in collections.Counter(self.settings.words(text)).items():
      number = self._vocabulary.get(word)
      if number is None:
        continue
      if number in self._whole:
        found, weights = slice(None), self._whole[number]
      else:
        entries = slice(self._ends[number], self._ends[number + 1])
        found, weights = self._where[entries], self._weights[entries]
      scores[found] += weights if count == 1 else np.float32(count) * weights
    return scores

  def scores(self, texts: Sequence[str]) -> Float[np.ndarray, "Q N"]:
    """BM25 of each text against every catalogue row."""
    found = np.zeros((len(texts), self.num_texts), np.float32)
    for index, text in enumerate(texts):
      found[index] = self.text_scores(text)
    return found[:, self.ids]


def _word_weights(
  words: list[list[str]], settings: BM25
) -> tuple[scipy.sparse.csc_array, dict[str, int]]:
  """The weights [words, items] that bm25s computes, and the word ids."""
  index = bm25s.BM25(k1=settings.k1, b=settings.b, method=settings.method)
  index.index(words, show_progress=False)
  scores, ids = index.scores, index.vocab_dict
  shape = (len(words), len(scores["indptr"]) - 1)
  by_word = scipy.sparse.csc_array(
    (scores["data"], scores["indices"], scores["indptr"]), shape=shape
  )
  return by_word.T.tocsc(), ids
