"""Vocabularies for SeqIO."""

# pyright: reportAttributeAccessIssue=false
# (TensorFlow creates its functions at run time.)

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calrec_jax.data.seqio.quiet_tensorflow import seqio, tf
from calrec_jax.data.vocabulary import files


def for_tasks(vocabulary: files.Vocabulary) -> seqio.Vocabulary:
  """The vocabulary of SeqIO tasks."""
  if vocabulary.kind == files.SENTENCEPIECE:
    return seqio.SentencePieceVocabulary(vocabulary.model_file, extra_ids=0)
  return ByteBpeVocabulary(vocabulary)


class ByteBpeVocabulary(seqio.Vocabulary):
  """Byte-level BPE, for which TensorFlow has no operation.

  It calls Python in a function that is declared stateless, so that iterators
  can be checkpointed, which `tf.py_function` would not allow.
  """

  def __init__(self, vocabulary: files.Vocabulary):
    super().__init__(extra_ids=0)
    self._vocabulary = vocabulary

  @property
  def bos_id(self) -> int | None:
    """The begin token."""
    return self._vocabulary.begin

  @property
  def eos_id(self) -> int | None:
    """None: items end with the end marker of the prompt."""
    return None

  @property
  def unk_id(self) -> int | None:
    """None: every text can be encoded as bytes."""
    return None

  @property
  def _base_vocab_size(self) -> int:
    return self._vocabulary.size

  def _encode(self, s: str) -> list[int]:
    return self._vocabulary.encode(s)

  def _decode(self, ids: Sequence[int]) -> str:
    return self._vocabulary.decode(ids)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    """int32[n] of a text, or ragged int32[N, n] of N texts."""
    texts = tf.reshape(s, [-1])
    values, lengths = tf.numpy_function(
      self._encode_texts, [texts], [tf.int32, tf.int64], stateful=False
    )
    values.set_shape([None])
    if s.shape.rank == 0:
      return values
    lengths.set_shape(s.shape)
    return tf.RaggedTensor.from_row_lengths(values, lengths)

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    """The text of int32[n], or N texts of int32[N, n], ragged or not."""
    if isinstance(ids, tf.RaggedTensor):
      ids = ids.to_tensor(-1)  # Decodes to nothing.
    texts = tf.numpy_function(
      self._decode_rows, [ids], tf.string, stateful=False
    )
    texts.set_shape(ids.shape[:-1])
    return texts

  def _encode_texts(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = self._vocabulary.encode_all([text.decode() for text in texts])
    lengths = np.array([len(row) for row in rows], np.int64)
    return np.array([i for row in rows for i in row], np.int32), lengths

  def _decode_rows(self, ids: np.ndarray) -> np.ndarray:
    rows = ids.reshape(-1, ids.shape[-1]).tolist()
    texts = [self._vocabulary.decode(row).encode() for row in rows]
    return np.array(texts, object).reshape(ids.shape[:-1])

  def __eq__(self, other: object) -> bool:
    return (
      isinstance(other, ByteBpeVocabulary)
      and self._vocabulary.sha256 == other._vocabulary.sha256
    )

  def __hash__(self) -> int:
    return hash(self._vocabulary.sha256)
