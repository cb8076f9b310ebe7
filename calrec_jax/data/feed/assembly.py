"""Assembles planned rows: reads the users and writes their documents.

Tested by `tests/unit/data/test_feed.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from calrec_jax.data.cache.files import DocumentRecord
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.feed import tokenization
from calrec_jax.data.feed.batch import Batch
from calrec_jax.data.feed.plan import Documents
from calrec_jax.errors import InputError


class Assembler:
  """Assembles batches from the token caches of a mixture."""

  def __init__(
    self,
    caches: Sequence[TokenCache],
    row_tokens: int,
    row_slots: int,
    item_segments: bool = True,
  ):
    self._caches = tuple(caches)
    self._item_segments = item_segments
    self._row_tokens = row_tokens
    self._row_slots = row_slots
    self._item_offsets = _offsets(cache.num_items for cache in caches)

  def batch(self, split: str, rows: Sequence[Documents]) -> Batch:
    """One batch of NumPy arrays.

    Items are numbered across all domains. Items with identical text have the
    number of the first of them: no text recommender can distinguish them, so
    they must not be each other's negatives. Users are numbered likewise.

    Args:
      split: Split that the documents belong to.
      rows: Documents of each row; a row without any stays empty.
    """
    users = [cache.num_documents(split) for cache in self._caches]
    user_offsets = _offsets(users)
    histories = self._read(split, rows)
    batch = Batch.empty(len(rows), self._row_tokens, self._row_slots)
    for row, documents in enumerate(rows):
      cursor = tokenization.Cursor()
      for domain, user, start, first_target, stop in documents.to_tuples():
        cache = self._caches[domain]
        user_record = histories[domain, user]
        items = user_record.items[start:stop]
        values, at = cache.item_tokens
        targets = np.arange(first_target - start, stop - start)
        if user_record.targets is not None:
          targets = targets[user_record.targets[first_target:stop]]
        kinds = user_record.kinds
        cursor = tokenization.write_document(
          batch,
          row,
          cursor,
          cache.prompt,
          [values[at[item] : at[item + 1]] for item in items.tolist()],
          targets=targets.tolist(),
          slot_items=self._item_offsets[domain]
          + cache.text_rows[items[targets]],
          slot_user=user_offsets[domain] + user,
          item_segments=self._item_segments,
          kinds=None if kinds is None else kinds[start:stop],
        )
    return batch

  def _read(
    self, split: str, rows: Sequence[Documents]
  ) -> dict[tuple[int, int], DocumentRecord]:
    """Documents by (domain, user), in one read per domain."""
    users: list[set[int]] = [set() for _ in self._caches]
    for documents in rows:
      for domain, user, *_ in documents.to_tuples():
        users[domain].add(user)
    found = {}
    for domain, cache in enumerate(self._caches):
      wanted = sorted(users[domain])
      if not wanted:
        continue
      records = cache.documents(split, wanted)
      for user, record in zip(wanted, records, strict=True):
        found[domain, user] = record
    return found


def _offsets(counts: Iterable[int]) -> list[int]:
  """Offset of each domain in a common numbering."""
  totals = [0]
  for count in counts:
    totals.append(totals[-1] + count)
  if totals[-1] > np.iinfo(np.int32).max:
    raise InputError(
      f"The mixture has {totals[-1]} items or users, more than int32 allows."
    )
  return totals[:-1]
