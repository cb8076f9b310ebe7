"""The token cache of one domain.

`writer.write_cache` writes one, `TokenCache.open` reads it. The lengths of all
events are plain arrays, so an epoch is planned without reading any user; users
are then read one by one. The layout of the folder is in `files`.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgpack
import numpy as np

from calrec_jax.data import records
from calrec_jax.data.cache import everybody as everybody_lib
from calrec_jax.data.cache import files, joined_splits
from calrec_jax.data.cache.files import CacheError, DocumentRecord
from calrec_jax.data.domain.splits import ranges
from calrec_jax.data.vocabulary import files as vocabulary_files

_READ_CHUNK = 4096


class TokenCache:
  """A complete cache. Picklable: worker processes receive its path.

  Attributes:
    path: Folder of the cache.
    name: Name of the domain.
    fingerprint: Hash (sha256) of everything that determines a training batch:
      items, users, prompt, vocabulary. The card is not part of it.
    prompt: Pieces that every sequence is joined from.
    kinds: Kinds of event, or None if the domain has one kind only.
    targets_differ: Whether only some of the events may be targets.
    card: Description of the dataset.
  """

  def __init__(self, path: pathlib.Path, manifest: dict[str, Any]):
    self.path = path
    self._manifest = manifest
    self._joins: dict[str, tuple[joined_splits.Part, ...]] = {}
    self._readers: dict[str, files.Records] = {}
    self.name: str = manifest["name"]
    self.fingerprint: str = manifest["fingerprint"]
    fields = json.loads((path / "prompt.json").read_text("utf-8"))
    self.prompt = records.PromptTokens.from_json(fields)
    self.kinds: records.EventKinds | None = None
    if "kinds" in manifest:
      self.kinds = records.EventKinds(
        *(tuple(manifest["kinds"][name]) for name in ("names", "targets"))
      )
    self.targets_differ = any(
      f"{split}.targets.npy" in manifest["files"] for split in self.splits
    )
    card = (path / "card.json").read_text("utf-8")
    self.card: dict[str, Any] = json.loads(card)

  @classmethod
  def open(cls, path: str | os.PathLike) -> TokenCache:
    """Opens a cache after `files.check`; records have their own checksums.

    Raises:
      CacheError: If a file is missing, truncated or altered.
    """
    path = pathlib.Path(path).absolute()
    return cls(path, files.check(path))

  def verify(self) -> None:
    """Compares every file with its hash, the records included."""
    files.check(self.path, thorough=True)

  def __reduce__(self) -> tuple[Any, ...]:
    return TokenCache, (self.path, self._manifest)

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits."""
    return tuple(self._manifest["splits"])

  @property
  def num_items(self) -> int:
    """Number of items in the catalogue."""
    return self._manifest["items"]

  @property
  def largest_token(self) -> int:
    """The largest token id in items and prompt, for the model's vocabulary."""
    return self._manifest["largest_token"]

  @property
  def vocabulary_fingerprint(self) -> str:
    """Hash that is equal for caches with the same vocabulary."""
    return self._manifest["vocabulary"]

  def num_documents(self, split: str) -> int:
    """Number of users of a split.

    Here and below, several splits may be joined by "+", the earliest first:
    "train+validation" has the last document of every user, see `joined_splits`.
    """
    if joined_splits.SIGN in split:
      return sum(len(part.rows) for part in self._joined(split))
    return self._split(split)["documents"]

  def document(self, split: str, index: int) -> DocumentRecord:
    """One user of a split."""
    return self.documents(split, [index])[0]

  def documents(
    self, split: str, indices: Sequence[int] | np.ndarray
  ) -> list[DocumentRecord]:
    """Several users in one read, which makes random access fast."""
    if joined_splits.SIGN in split:
      return self._joined_documents(split, indices)
    self._split(split)
    reader = self._readers.setdefault(split, files.Records(self.path, split))
    return [_decode_document(record) for record in reader.read(indices)]

  def event_lengths(self, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of every event, int32[E], and offsets of users, int64[n + 1].

    The end marker counts; user i has `lengths[offsets[i]:offsets[i + 1]]`.
    """
    if joined_splits.SIGN in split:
      return self._joined_lengths(split)
    self._split(split)
    return self._array(f"{split}.lengths"), self._array(f"{split}.offsets")

  def user_ids(self, split: str) -> list[str]:
    """Ids of the users of a split, in the order of `event_lengths`."""
    users = range(self.num_documents(split))
    return [document.user_id for document in self._streamed(split, users)]

  def event_times(self, split: str) -> np.ndarray | None:
    """The time of every event, int64[E], in the order of `event_lengths`.

    None if the documents have no times.
    """
    users = range(self.num_documents(split))
    parts = [document.timestamps for document in self._streamed(split, users)]
    times = [part for part in parts if part is not None]
    if len(times) < len(parts):
      return None
    return np.concatenate([np.zeros(0, np.int64), *times])

  def event_marks(self, split: str, mark: str) -> np.ndarray | None:
    """The kind of every event, or whether it may be a target.

    Args:
      split: Name of the split, as of `event_lengths`, with the same order.
      mark: Column out of `files.MARKS`: "kinds" (int8) or "targets" (bool).

    Returns:
      [E], or None if the domain does not distinguish its events.
    """
    parts = []
    for name, rows in self._parts(split):
      if f"{name}.{mark}.npy" not in self._manifest["files"]:
        if self._split(name)["events"]:
          return None
        continue
      values = self._array(f"{name}.{mark}")
      if rows is not None:
        offsets = self._array(f"{name}.offsets")
        values = values[ranges(offsets[rows], offsets[rows + 1])]
      parts.append(values)
    return np.concatenate(parts) if parts else None

  def _parts(self, split: str) -> Iterator[tuple[str, np.ndarray | None]]:
    """The splits that are joined, with the rows taken; None takes all."""
    if joined_splits.SIGN in split:
      yield from self._joined(split)
    else:
      yield split, None

  def items_of(self, document: DocumentRecord) -> np.ndarray:
    """A document's items, `records.EventItems` where events have kinds."""
    return records.document_items(
      document.items, document.kinds, document.targets, self.kinds
    )

  def plain_history(
    self, items: np.ndarray, kinds: Sequence[str] | None = None
  ) -> np.ndarray:
    """A history of this domain that does not come from its log.

    Args:
      items: int32[n], catalogue rows, oldest first.
      kinds: Names of the kinds of its events; by default all are of the kind
        that is asked for, such as purchases.

    Raises:
      KeyError: If a kind is not one of the domain.
    """
    if self.kinds is None:
      return items
    codes = np.full(len(items), self.kinds.query, np.int8)
    if kinds is not None:
      codes = self.kinds.codes(kinds)
    names = np.array(self.kinds.names)[codes]
    targets = np.isin(names, self.kinds.targets)
    return self.items_of(DocumentRecord("", items, None, codes, targets))

  def histories(
    self, split: str, limit: int | None = None, seed: int | None = None
  ) -> list[records.History]:
    """The users of an evaluation split: history and target.

    Args:
      split: Name of the split; the last item of each user is the target.
      limit: Maximum number of users.
      seed: Seed of the random sample of `limit` users, returned in the cache's
        order; None takes the first ones.
    """
    indices = self.sample(split, limit, seed)
    return [
      records.History(
        user.user_id,
        self.items_of(user)[:-1],
        int(user.items[-1]),
        user.timestamps,
      )
      for user in self._streamed(split, indices)
    ]

  def purchases(
    self, split: str, *, every_kind: bool = False
  ) -> records.Purchases:
    """The events that may be targets, user by user.

    Args:
      split: Name of the split, or of `everybody`.
      every_kind: Whether other events, such as views, are included.

    Raises:
      CacheError: If the events of everybody have not been written.
    """
    if split == everybody_lib.NAME:
      if self.everybody is None:
        raise CacheError(
          f"{self.path} has no usable {everybody_lib.FILE}; "
          "`building.attach_everybody` writes it."
        )
      return self.everybody.purchases(every_kind=every_kind)
    users = range(self.num_documents(split))
    parts = [
      user.items
      if every_kind or user.targets is None
      else user.items[user.targets]
      for user in self._streamed(split, users)
    ]
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    items = np.concatenate([np.zeros(0, np.int32), *parts])
    return records.Purchases(items, offsets)

  def sample(
    self, split: str, limit: int | None = None, seed: int | None = None
  ) -> np.ndarray:
    """Indices of the users that `histories` returns, ascending, int64."""
    return records.sample_rows(self.num_documents(split), limit, seed)

  @functools.cached_property
  def item_tokens(self) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of all items, int32, and their offsets, int64[N + 1]."""
    lengths = self._array("catalogue.lengths")
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return self._array("catalogue.tokens"), offsets

  @functools.cached_property
  def text_rows(self) -> np.ndarray:
    """First catalogue row with the same tokens, int32[N]."""
    return self._array("catalogue.twins")

  @functools.cached_property
  def catalogue(self) -> records.Catalogue:
    """The items with their texts, read on first use."""
    items = [
      msgpack.unpackb(record)
      for record in files.Records(self.path, "catalogue").read(None)
    ]
    values, offsets = self.item_tokens
    return records.Catalogue(
      item_ids=tuple(item["item_id"] for item in items),
      texts=tuple(item["text"] for item in items),
      values=values,
      offsets=offsets,
      train_counts=self._array("catalogue.train_counts"),
      train_recent=self._array("catalogue.train_recent"),
    )

  @functools.cached_property
  def everybody(self) -> everybody_lib.Everybody | None:
    """All events of all users; None in a cache that lacks them."""
    return everybody_lib.read(self.path, self.fingerprint)

  def item(self, row: int) -> tuple[str, str]:
    """Id and text of one item, without reading the whole catalogue."""
    [record] = files.Records(self.path, "catalogue").read([row])
    item = msgpack.unpackb(record)
    return item["item_id"], item["text"]

  def _joined(self, split: str) -> tuple[joined_splits.Part, ...]:
    """The parts of a joined split; all users are read once."""
    if split not in self._joins:
      self._joins[split] = joined_splits.join(
        [(name, self.user_ids(name)) for name in joined_splits.names(split)]
      )
    return self._joins[split]

  def _streamed(
    self, split: str, indices: Sequence[int] | np.ndarray
  ) -> Iterator[DocumentRecord]:
    """Reads `documents` in chunks, so that not all records are in memory."""
    for at in range(0, len(indices), _READ_CHUNK):
      yield from self.documents(split, indices[at : at + _READ_CHUNK])

  def _joined_documents(
    self, split: str, indices: Sequence[int] | np.ndarray
  ) -> list[DocumentRecord]:
    found: dict[int, DocumentRecord] = {}
    parts = joined_splits.located(self._joined(split), indices)
    for name, rows, positions in parts:
      found.update(
        zip(positions.tolist(), self.documents(name, rows), strict=True)
      )
    return [found[position] for position in range(len(indices))]

  def _joined_lengths(self, split: str) -> tuple[np.ndarray, np.ndarray]:
    parts, counts = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    for name, rows in self._joined(split):
      lengths, offsets = self.event_lengths(name)
      starts, stops = offsets[rows], offsets[rows + 1]
      parts.append(lengths[ranges(starts, stops)])
      counts.append(stops - starts)
    return np.concatenate(parts), np.cumsum(np.concatenate(counts))

  @functools.cached_property
  def _vocabulary(self) -> vocabulary_files.Vocabulary:
    try:
      return vocabulary_files.load(self.path / "vocabulary")
    except (OSError, ValueError) as error:
      raise CacheError(
        f"The vocabulary of {self.path} cannot be loaded ({error}). "
        f"{files.remedy(self.path)}"
      ) from error

  def vocabulary(self) -> vocabulary_files.Vocabulary:
    """The vocabulary of the tokens.

    Raises:
      CacheError: If the cache was written without one.
    """
    return self._vocabulary

  def _array(self, name: str) -> np.ndarray:
    # A plain view: slicing a memmap object takes microseconds each time.
    return np.asarray(np.load(self.path / f"{name}.npy", mmap_mode="r"))

  def _split(self, split: str) -> dict[str, Any]:
    try:
      return self._manifest["splits"][split]
    except KeyError:
      raise CacheError(
        f"{self.path} has no split {split!r}; it has {', '.join(self.splits)}."
      ) from None


def _decode_document(record: bytes) -> DocumentRecord:
  fields = msgpack.unpackb(record)
  times = fields.get("timestamps")
  marks = {
    mark: np.frombuffer(fields[mark], dtype)
    for mark, dtype in files.MARKS.items()
    if mark in fields
  }
  return DocumentRecord(
    fields["user_id"],
    np.frombuffer(fields["items"], "<i4"),
    None if times is None else np.frombuffer(times, "<i8"),
    **marks,
  )
