"""Writes a token cache: checked, and atomically.

The layout of the folder is in `files`.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np
from array_record.python import (
  array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
)

from calrec_jax.data import records
from calrec_jax.data.cache import files as cache_files
from calrec_jax.data.cache.files import (
  CacheError,
  CatalogueRecord,
  DocumentRecord,
)
from calrec_jax.storage import atomic, build_lock
from calrec_jax.storage.identity import file_sha256, fingerprint

# Every record is its own chunk: a random read decodes nothing else.
_WRITER_OPTIONS = "group_size:1"

_BLOCK = 4096  # Records checked together.


def write_cache(
  path: str | os.PathLike,
  catalogue_records: Iterable[CatalogueRecord],
  documents: Mapping[str, Iterable[DocumentRecord]],
  prompt: records.PromptTokens,
  vocabulary_files: Iterable[str | os.PathLike] = (),
  card: Callable[[], Mapping[str, Any]] = dict,
  *,
  name: str | None = None,
  kinds: records.EventKinds | None = None,
  more: Callable[[pathlib.Path, str], None] = lambda folder, fingerprint: None,
) -> pathlib.Path:
  """Writes a cache; it appears under `path` complete or not at all.

  Args:
    path: Folder to write. A usable cache that is already there is retained; a
      damaged one is replaced.
    catalogue_records: Items, in catalogue order.
    documents: Users of each split, read once and one split after another. In
      an evaluation split the last item of a user is the target.
    prompt: Pieces that every sequence is joined from.
    vocabulary_files: Files copied to `vocabulary/` under their own names.
    card: Function that describes the dataset, called after all documents have
      been written.
    name: Name of the domain; by default `path`'s name up to the last hyphen.
    kinds: Kinds of event, where documents have them.
    more: Function of the folder and the cache's fingerprint, which writes files
      outside the manifest.

  Returns:
    The folder.

  Raises:
    CacheError: If an item has no tokens, does not end with the end marker or
      contains it elsewhere, if an item id appears twice, and if a user has no
      items or some outside the catalogue.
    build_lock.DiskFullError: If the disk is full.
  """
  path = pathlib.Path(path)
  with (
    atomic.new_folder(path, or_existing=True) as folder,
    build_lock.room(path),
  ):
    manifest = _write_parts(
      folder, catalogue_records, documents, prompt, vocabulary_files, card
    )
    manifest["name"] = name or path.name.rpartition("-")[0] or path.name
    if kinds is not None:
      manifest["kinds"] = dataclasses.asdict(kinds)
    more(folder, manifest["fingerprint"])
    _write_json(folder / cache_files.MANIFEST, manifest)
    try:
      cache_files.check(path)
    except CacheError:
      shutil.rmtree(path, ignore_errors=True)
  return path


def _write_parts(
  folder: pathlib.Path,
  catalogue_records: Iterable[CatalogueRecord],
  documents: Mapping[str, Iterable[DocumentRecord]],
  prompt: records.PromptTokens,
  vocabulary_files: Iterable[str | os.PathLike],
  card: Callable[[], Mapping[str, Any]],
) -> dict[str, Any]:
  """Writes everything but the manifest, and returns the manifest."""
  _write_json(folder / "prompt.json", prompt.as_json())
  vocabulary = folder / "vocabulary"
  vocabulary.mkdir()
  for file in vocabulary_files:
    shutil.copyfile(file, vocabulary / pathlib.Path(file).name)
  lengths, content = _write_catalogue(folder, catalogue_records, prompt)
  counts = _TrainCounts(len(lengths))
  splits, contents = {}, {}
  for split, users in documents.items():
    splits[split], contents[split] = _write_split(
      folder, split, users, lengths, counts
    )
  _write_json(folder / "card.json", card())
  np.save(folder / "catalogue.train_counts.npy", counts.events)
  np.save(folder / "catalogue.train_recent.npy", counts.recent)
  tokens = np.load(folder / "catalogue.tokens.npy", mmap_mode="r")
  files = {
    str(file.relative_to(folder)): {
      "bytes": file.stat().st_size,
      "sha256": file_sha256(file),
    }
    for file in sorted(folder.rglob("*"))
    if file.is_file()
  }
  vocabulary_hash = fingerprint(
    {name: at["sha256"] for name, at in files.items() if "vocabulary/" in name}
  )
  return {
    "schema": cache_files.SCHEMA,
    "fingerprint": fingerprint(
      {
        "schema": cache_files.CONTENT_SCHEMA,
        "catalogue": content,
        "splits": contents,
        "prompt": prompt.as_json(),
        "vocabulary": vocabulary_hash,
      }
    ),
    "vocabulary": vocabulary_hash,
    "items": len(lengths),
    "largest_token": max(int(tokens.max()), prompt.largest()),
    "splits": splits,
    "files": files,
  }


def _write_catalogue(
  folder: pathlib.Path,
  catalogue_records: Iterable[CatalogueRecord],
  prompt: records.PromptTokens,
) -> tuple[np.ndarray, str]:
  """Returns int32[N], each item's tokens, and the sha256 of what it wrote."""
  ids, texts, lengths = [], [], array.array("i")
  values = array.array("i")
  with _record_writer(folder / "catalogue.arrayrecord") as write:
    for items in _blocks(catalogue_records):
      tokens = [np.asarray(item.tokens, np.int32) for item in items]
      _check_items(items, tokens, prompt.end)
      lengths.extend(map(len, tokens))
      values.frombytes(np.concatenate(tokens).tobytes())
      for item in items:
        ids.append(item.item_id)
        texts.append(item.text)
        write({"item_id": item.item_id, "text": item.text})
    digest = write.digest
  if not ids:
    raise CacheError("the catalogue has no item; nothing was written")
  if len(set(ids)) != len(ids):
    seen: set[str] = set()
    twice = next(i for i in ids if i in seen or seen.add(i))
    raise CacheError(f"the item id {twice!r} appears twice in the catalogue")
  tokens_by_item = np.frombuffer(lengths, np.int32)
  offsets = np.concatenate([[0], np.cumsum(tokens_by_item, dtype=np.int64)])
  catalogue = records.Catalogue(
    tuple(ids),
    tuple(texts),
    np.frombuffer(values, np.int32),
    offsets,
    np.zeros(len(ids), np.int64),
    np.zeros(len(ids)),
  )
  np.save(folder / "catalogue.tokens.npy", catalogue.values)
  np.save(folder / "catalogue.lengths.npy", tokens_by_item)
  np.save(folder / "catalogue.twins.npy", catalogue.text_rows)
  digest.update(catalogue.values.tobytes())
  digest.update(tokens_by_item.tobytes())
  return tokens_by_item, digest.hexdigest()


def _check_items(
  items: Sequence[CatalogueRecord], tokens: Sequence[np.ndarray], end: int
) -> None:
  """Checks the tokens of some items."""
  for item, one in zip(items, tokens, strict=True):
    if not len(one) or one[-1] != end:
      raise CacheError(
        f"item {item.item_id!r} does not end with the end marker (token "
        f"{end}); every item's tokens must"
      )
  whole = np.concatenate(tokens)
  early = whole == end
  early[np.cumsum([len(one) for one in tokens]) - 1] = False
  if early.any():
    raise CacheError(
      f"item {items[_owner(early, tokens)].item_id!r} holds the end marker "
      f"(token {end}) before its end, where decoding would stop; choose "
      "another Prompt.end"
    )
  if whole.min() < 0:
    owner = _owner(whole < 0, tokens)
    raise CacheError(
      f"item {items[owner].item_id!r} holds the token {tokens[owner].min()}"
    )


def _owner(bad: np.ndarray, parts: Sequence[np.ndarray]) -> int:
  """Index of the part that has the first True of a mask over all parts."""
  stops = np.cumsum([len(part) for part in parts])
  return int(np.searchsorted(stops, np.argmax(bad), side="right"))


class _TrainCounts:
  """Training events of each item, see `records.Catalogue`."""

  def __init__(self, num_items: int):
    self.events = np.zeros(num_items, np.int64)
    self.recent = np.zeros(num_items, np.float64)

  def add(self, users: Sequence[DocumentRecord]) -> None:
    """Counts the events of users that may be targets."""
    bought = [
      np.asarray(
        user.items if user.targets is None else user.items[user.targets]
      )
      for user in users
    ]
    items = np.concatenate(bought)
    np.add.at(self.events, items, 1)
    ages = np.concatenate([np.arange(len(user), 0, -1) for user in bought])
    np.add.at(self.recent, items, 1.0 / ages)


def _write_split(
  folder: pathlib.Path,
  split: str,
  users: Iterable[DocumentRecord],
  item_lengths: np.ndarray,
  train_counts: _TrainCounts,
) -> tuple[dict[str, int], str]:
  lengths, offsets = array.array("i"), array.array("q", [0])
  marks: dict[str, list[np.ndarray]] = {name: [] for name in cache_files.MARKS}
  with _record_writer(folder / f"{split}.arrayrecord") as write:
    for block in _blocks(users):
      columns = [np.asarray(user.items, np.int32) for user in block]
      items = np.concatenate(columns)
      _check_users(split, block, columns, len(item_lengths))
      for user, column in zip(block, columns, strict=True):
        record = {"user_id": user.user_id, "items": column.tobytes()}
        if user.timestamps is not None:
          times = np.asarray(user.timestamps, np.int64)
          record["timestamps"] = times.tobytes()
        for mark, dtype in cache_files.MARKS.items():
          if (values := getattr(user, mark)) is not None:
            values = np.asarray(values, dtype)
            record[mark] = values.tobytes()
            marks[mark].append(values)
        write(record)
      ends = np.cumsum([len(column) for column in columns]) + len(lengths)
      offsets.extend(ends.tolist())
      lengths.frombytes(item_lengths[items].astype(np.int32).tobytes())
      if split == "train":
        train_counts.add(block)
    digest = write.digest
  tokens = np.frombuffer(lengths, np.int32)
  np.save(folder / f"{split}.lengths.npy", tokens)
  np.save(folder / f"{split}.offsets.npy", np.frombuffer(offsets, np.int64))
  for mark, parts in marks.items():
    if parts:
      np.save(folder / f"{split}.{mark}.npy", np.concatenate(parts))
  counts = {
    "documents": len(offsets) - 1,
    "events": len(lengths),
    "tokens": int(tokens.sum(dtype=np.int64)),
  }
  return counts, digest.hexdigest()


def _check_users(
  split: str,
  users: Sequence[DocumentRecord],
  columns: Sequence[np.ndarray],
  num_items: int,
) -> None:
  """Checks the items of some users."""
  for user, items in zip(users, columns, strict=True):
    if not len(items):
      raise CacheError(f"user {user.user_id!r} of {split} has no items")
    if user.timestamps is not None and len(user.timestamps) != len(items):
      raise CacheError(
        f"user {user.user_id!r} of {split} has {len(items)} items and "
        f"{len(user.timestamps)} timestamps"
      )
    for mark in cache_files.MARKS:
      values = getattr(user, mark)
      if (values is None) != (getattr(users[0], mark) is None) or (
        values is not None and len(values) != len(items)
      ):
        raise CacheError(
          f"user {user.user_id!r} of {split} has {len(items)} items and "
          f"{'no' if values is None else len(values)} {mark}; all users must "
          "have one per item, or none"
        )
  whole = np.concatenate(columns)
  outside = (whole < 0) | (whole >= num_items)
  if outside.any():
    owner = _owner(outside, columns)
    raise CacheError(
      f"user {users[owner].user_id!r} of {split} has an item outside the "
      f"catalogue's {num_items} rows: {columns[owner].min()}.."
      f"{columns[owner].max()}"
    )


def _blocks(rows: Iterable[Any]) -> Iterator[list[Any]]:
  """The rows, some thousands at a time, to check them together."""
  rows = iter(rows)
  while block := list(itertools.islice(rows, _BLOCK)):
    yield block


class _Writer:
  """Writes records to an ArrayRecord file and hashes them."""

  def __init__(self, path: pathlib.Path):
    self.file = array_record_module.ArrayRecordWriter(
      str(path), _WRITER_OPTIONS
    )
    self.digest = hashlib.sha256()

  def __call__(self, record: Mapping[str, Any]) -> None:
    packed: Any = msgpack.packb(record)
    self.digest.update(len(packed).to_bytes(8, "little"))
    self.digest.update(packed)
    self.file.write(packed)


@contextlib.contextmanager
def _record_writer(path: pathlib.Path) -> Iterator[_Writer]:
  writer = _Writer(path)
  try:
    yield writer
  finally:
    writer.file.close()


def _write_json(path: pathlib.Path, value: Any) -> None:
  text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
  path.write_text(text + "\n", "utf-8")
