"""Writes a token cache: complete, checked, and in one move.

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
import uuid
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
from calrec_jax.storage import build_lock

TRAIN = "train"

# Every record is its own chunk: a random read decodes nothing else.
_WRITER_OPTIONS = "group_size:1"

_BLOCK = 4096  # Records checked at once.


def write_cache(
  path: str | os.PathLike,
  catalogue_records: Iterable[CatalogueRecord],
  documents: Mapping[str, Iterable[DocumentRecord]],
  prompt: records.PromptTokens,
  vocabulary_files: Iterable[str | os.PathLike] = (),
  card: Callable[[], Mapping[str, Any]] = dict,
  *,
  name: str | None = None,
) -> pathlib.Path:
  """Writes a cache; it appears under `path` complete or not at all.

  Args:
    path: Folder to write. A usable cache that is already there is retained and
      returned; one that is damaged is replaced.
    catalogue_records: Items, in catalogue order.
    documents: Users of each split, read once and one split after another. In
      an evaluation split the last item of a user is the target.
    prompt: Pieces that every sequence is joined from.
    vocabulary_files: Files copied to `vocabulary/` under their own names.
    card: Function that describes the dataset, called when all documents have
      been written; its result is stored beside the tokens.
    name: Name of the domain; by default `path`'s name up to the last hyphen.

  Returns:
    The folder.

  Raises:
    CacheError: If an item has no tokens, does not end with the end marker or
      holds it elsewhere, if an item id appears twice, and if a user has no
      items or some outside the catalogue.
    build_lock.DiskFullError: If the disk is full.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  folder = path.parent / f".{path.name}-{uuid.uuid4().hex[:8]}"
  folder.mkdir()
  try:
    with build_lock.room(path):
      manifest = _write_parts(
        folder, catalogue_records, documents, prompt, vocabulary_files, card
      )
      manifest["name"] = name or path.name.rpartition("-")[0] or path.name
      _write_json(folder / cache_files.MANIFEST, manifest)
    _publish(folder, path)
  finally:
    shutil.rmtree(folder, ignore_errors=True)
  return path


def _write_parts(
  folder: pathlib.Path,
  catalogue_records: Iterable[CatalogueRecord],
  documents: Mapping[str, Iterable[DocumentRecord]],
  prompt: records.PromptTokens,
  vocabulary_files: Iterable[str | os.PathLike],
  card: Callable[[], Mapping[str, Any]],
) -> dict[str, Any]:
  """Writes everything but the manifest, and returns that."""
  _write_json(folder / "prompt.json", dataclasses.asdict(prompt))
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
  pieces = (prompt.begin or 0, *prompt.prefix, *prompt.first, *prompt.next)
  files = {
    str(file.relative_to(folder)): {
      "bytes": file.stat().st_size,
      "sha256": cache_files.sha256(file),
    }
    for file in sorted(folder.rglob("*"))
    if file.is_file()
  }
  vocabulary_hash = cache_files.fingerprint(
    {name: at["sha256"] for name, at in files.items() if "vocabulary/" in name}
  )
  return {
    "schema": cache_files.SCHEMA,
    "fingerprint": cache_files.fingerprint(
      {
        "schema": cache_files.CONTENT_SCHEMA,
        "catalogue": content,
        "splits": contents,
        "prompt": dataclasses.asdict(prompt),
        "vocabulary": vocabulary_hash,
      }
    ),
    "vocabulary": vocabulary_hash,
    "items": len(lengths),
    "largest_token": int(max(int(tokens.max()), *pieces)),
    "splits": splits,
    "files": files,
  }


def _write_catalogue(
  folder: pathlib.Path,
  catalogue_records: Iterable[CatalogueRecord],
  prompt: records.PromptTokens,
) -> tuple[np.ndarray, str]:
  """Returns the tokens of each item, and the sha256 of all that was written."""
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
  np.save(folder / "catalogue.twins.npy", catalogue.twins)
  digest.update(catalogue.values.tobytes())
  digest.update(tokens_by_item.tobytes())
  return tokens_by_item, digest.hexdigest()


def _check_items(
  items: Sequence[CatalogueRecord], tokens: Sequence[np.ndarray], end: int
) -> None:
  """Checks the tokens of some items."""
  whole = np.concatenate(tokens)
  stops = np.cumsum([len(one) for one in tokens])
  ends = whole == end
  # As many end markers as items, each at an item's end: so each item has one.
  if (
    (np.diff(stops, prepend=0) > 0).all()
    and ends[stops - 1].all()
    and np.count_nonzero(ends) == len(items)
    and whole.min() >= 0
  ):
    return
  for item, one in zip(items, tokens, strict=True):
    _check_item(item.item_id, one, end)


def _check_item(item_id: str, tokens: np.ndarray, end: int) -> None:
  if not len(tokens) or tokens[-1] != end:
    raise CacheError(
      f"item {item_id!r} does not end with the end marker (token {end}); "
      "every item's tokens must"
    )
  if (tokens[:-1] == end).any():
    raise CacheError(
      f"item {item_id!r} holds the end marker (token {end}) before its end, "
      "where decoding would stop; choose another Prompt.end"
    )
  if tokens.min() < 0:
    raise CacheError(f"item {item_id!r} holds the token {tokens.min()}")


class _TrainCounts:
  """Training events of each item, see `records.Catalogue`."""

  def __init__(self, num_items: int):
    self.events = np.zeros(num_items, np.int64)
    self.recent = np.zeros(num_items, np.float64)

  def add(self, items: np.ndarray, users: Sequence[np.ndarray]) -> None:
    """Counts events; `items` are those of `users`, one after another."""
    np.add.at(self.events, items, 1)
    ages = np.concatenate([np.arange(len(user), 0, -1) for user in users])
    np.add.at(self.recent, items, 1.0 / ages)


def _write_split(
  folder: pathlib.Path,
  split: str,
  users: Iterable[DocumentRecord],
  item_lengths: np.ndarray,
  train_counts: _TrainCounts,
) -> tuple[dict[str, int], str]:
  lengths, offsets = array.array("i"), array.array("q", [0])
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
        write(record)
      ends = np.cumsum([len(column) for column in columns]) + len(lengths)
      offsets.extend(ends.tolist())
      lengths.frombytes(item_lengths[items].astype(np.int32).tobytes())
      if split == TRAIN:
        train_counts.add(items, columns)
    digest = write.digest
  tokens = np.frombuffer(lengths, np.int32)
  np.save(folder / f"{split}.lengths.npy", tokens)
  np.save(folder / f"{split}.offsets.npy", np.frombuffer(offsets, np.int64))
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
  items = np.concatenate(columns)
  if (
    all(map(len, columns))
    and items.min() >= 0
    and items.max() < num_items
    and all(
      user.timestamps is None or len(user.timestamps) == len(column)
      for user, column in zip(users, columns, strict=True)
    )
  ):
    return
  for user, column in zip(users, columns, strict=True):
    _check_user(split, user, column, num_items)


def _check_user(
  split: str, user: DocumentRecord, items: np.ndarray, num_items: int
) -> None:
  if not len(items):
    raise CacheError(f"user {user.user_id!r} of {split} has no items")
  if items.min() < 0 or items.max() >= num_items:
    raise CacheError(
      f"user {user.user_id!r} of {split} has an item outside the catalogue's "
      f"{num_items} rows: {items.min()}..{items.max()}"
    )
  if user.timestamps is not None and len(user.timestamps) != len(items):
    raise CacheError(
      f"user {user.user_id!r} of {split} has {len(items)} items and "
      f"{len(user.timestamps)} timestamps"
    )


def _blocks(rows: Iterable[Any]) -> Iterator[list[Any]]:
  """The rows, some thousands at a time: checked at once, in little memory."""
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


def _publish(folder: pathlib.Path, path: pathlib.Path) -> None:
  """Moves the finished folder into place."""
  try:
    os.rename(folder, path)
    return
  except OSError:
    if not path.exists():
      raise
  try:
    cache_files.check(path)  # Another process was faster: its cache is as good.
  except CacheError:
    broken = path.parent / f".{path.name}-{uuid.uuid4().hex[:8]}"
    os.rename(path, broken)
    os.rename(folder, path)
    shutil.rmtree(broken, ignore_errors=True)


def _write_json(path: pathlib.Path, value: Any) -> None:
  text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
  path.write_text(text + "\n", "utf-8")
