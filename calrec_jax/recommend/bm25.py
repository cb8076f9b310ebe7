"""BM25 of many texts against every item of a catalogue at once.

The `bm25s` library builds the matrix of word weights; a sparse product with
the word counts of the queries then gives exactly its scores, for a whole batch
(`bm25s` itself scores one query at a time). Equality with the library and with
a plain loop is tested in `tests/reference/test_bm25_reference.py`.
"""

import collections
import dataclasses
import logging
import re
from collections.abc import Iterator, Sequence

import bm25s
import gin
import numpy as np
import scipy.sparse
from jaxtyping import Float

logging.getLogger("bm25s").setLevel(logging.WARNING)  # It reports each index.

# Those where an absent word adds 0.
_METHODS = ("lucene", "robertson", "atire")
_QUERIES_PER_PRODUCT = 256  # Bounds the memory of one sparse product.


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class BM25:
  """How words of a text are weighed (Robertson and Zaragoza, 2009).

  CALRec reports that its constants need no tuning; these are the usual ones.

  Attributes:
    k1: how soon repeated words stop counting, at least 0.
    b: how far long texts are discounted, 0 to 1.
    method: variant of the weights, `lucene` (never negative), `robertson` or
      `atire`.
    word_pattern: regular expression of a word. Single characters are words
      here: in a catalogue they are sizes and counts.
    lower_case: whether capital letters are folded.
  """

  k1: float = 1.5
  b: float = 0.75
  method: str = "lucene"
  word_pattern: str = r"\w+"
  lower_case: bool = True

  def __post_init__(self):
    if self.k1 < 0:
      raise ValueError(f"BM25.k1 is {self.k1}; it must be at least 0.")
    if not 0 <= self.b <= 1:
      raise ValueError(f"BM25.b is {self.b}; it must lie between 0 and 1.")
    if self.method not in _METHODS:
      raise ValueError(
        f"BM25.method is {self.method!r}; choose one of {', '.join(_METHODS)}."
      )
    try:
      re.compile(self.word_pattern)
    except re.error as error:
      raise ValueError(
        f"BM25.word_pattern is no regular expression: {error}"
      ) from error

  def words(self, text: str) -> list[str]:
    """The words of a text, in order, with repeats."""
    if self.lower_case:
      text = text.lower()
    return re.findall(self.word_pattern, text)


class CatalogueIndex:
  """The item texts of one catalogue, ready to be searched.

  Word statistics count every item, but items with the same text share one
  column: they get the same score to the last bit.

  Attributes:
    settings: the `BM25` it was built with.
    columns: int32[N], the column that holds each catalogue row's text.
    rows: text -> a catalogue row that has exactly this text (the smallest).
  """

  def __init__(self, texts: Sequence[str], settings: BM25 | None = None):
    """Indexes the texts of a catalogue, in the order of its rows.

    Raises:
      ValueError: if there is no text, or no word in any of them.
    """
    self.settings = settings or BM25()
    words = [self.settings.words(text) for text in texts]
    if not any(words):
      raise ValueError(
        f"None of the {len(words)} item texts holds a word that matches "
        f"BM25.word_pattern = {self.settings.word_pattern!r}."
      )
    self.rows: dict[str, int] = {}
    for row, text in enumerate(texts):
      self.rows.setdefault(text, row)
    first = np.array([self.rows[text] for text in texts])
    distinct, self.columns = np.unique(first, return_inverse=True)
    self.columns = self.columns.astype(np.int32)
    self._matrix, self._vocabulary = _word_weights(words, self.settings)
    self._matrix = self._matrix[:, distinct].tocsr()

  def __len__(self) -> int:
    return len(self.columns)

  @property
  def num_columns(self) -> int:
    """The number of distinct texts, M."""
    return self._matrix.shape[1]

  def column_scores(self, texts: Sequence[str]) -> Float[np.ndarray, "Q M"]:
    """BM25 of each text against every distinct item text.

    A word that the text repeats counts each time; a word that no item has
    counts nothing.
    """
    parts = [
      (counts @ self._matrix).toarray() for counts in self._word_counts(texts)
    ]
    if not parts:
      return np.zeros((0, self.num_columns), np.float32)
    return np.concatenate(parts)

  def scores(self, texts: Sequence[str]) -> Float[np.ndarray, "Q N"]:
    """BM25 of each text against every catalogue row."""
    return self.column_scores(texts)[:, self.columns]

  def _word_counts(
    self, texts: Sequence[str]
  ) -> Iterator[scipy.sparse.csr_array]:
    """Word counts of the texts, [<=256, words] at a time."""
    for start in range(0, len(texts), _QUERIES_PER_PRODUCT):
      ids, counts, ends = [], [], [0]
      for text in texts[start : start + _QUERIES_PER_PRODUCT]:
        found = collections.Counter(self.settings.words(text))
        for word, count in found.items():
          if word in self._vocabulary:
            ids.append(self._vocabulary[word])
            counts.append(count)
        ends.append(len(ids))
      yield scipy.sparse.csr_array(
        (np.array(counts, np.float32), np.array(ids, np.int32), ends),
        shape=(len(ends) - 1, self._matrix.shape[0]),
      )


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
