"""The files of a TFDS dataset: which documents lie in which, and writing one.

A file can be written knowing the columns and its own number alone, by a thread
here or by a worker of Apache Beam somewhere else, and comes out the same. The
documents of a split are in a random order that depends on nothing else, for
trainers that shuffle files.
Needs TensorFlow to write. Tested by `tests/unit/data/test_builder.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath

from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.domain import splits
from calrec_jax.data.logs import id_codes
from calrec_jax.data.seqio import examples
from calrec_jax.data.seqio.quiet_tensorflow import tf
from calrec_jax.storage import build_lock

CATALOGUE = "catalogue"  # A split of documents of one item, without a user.

FRAME_BYTES = 16  # Around a message in a TFRecord file: length and checksums.
_FILE_BYTES = 64 << 20
_BLOCK_EVENTS = 1 << 15  # Made at once: some 10 MB.
_NUMBER_BYTES = 16  # Of one event's three numbers, about.
_TABLES = ("items", "users", "events")


@dataclasses.dataclass(frozen=True)
class File:
  """One file of a split: `number` of `count`, in the split's order."""

  split: str
  number: int
  count: int


class Columns:
  """What documents are made of, and how they are spread over files."""

  def __init__(
    self, tables: dict[str, pa.Table], documents: dict[str, splits.Documents]
  ):
    self._tables = tables
    self.documents = documents
    events = tables["events"]
    self._items: np.ndarray = events["items"].to_numpy()
    self._timestamps: np.ndarray = events["timestamps"].to_numpy()

  @classmethod
  def of(cls, prepared: domain_lib.Prepared) -> Columns:
    """The columns of a prepared domain."""
    events = prepared.events
    return cls(
      {
        "items": pa.table(
          {"ids": _texts(prepared.item_ids), "texts": _texts(prepared.texts)}
        ),
        "users": pa.table({"ids": _texts(events.user_ids)}),
        "events": pa.table(
          {
            "items": pa.array(events.items),
            "timestamps": pa.array(events.timestamps),
          }
        ),
      },
      dict(prepared.documents),
    )

  def save(self, folder: epath.Path) -> None:
    """Writes the columns to a folder that workers can read."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, part in self.documents.items():
      self._tables[split] = pa.table(dataclasses.asdict(part))
    for name, table in self._tables.items():
      with (
        (folder / f"{name}.arrow").open("wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
      ):
        writer.write_table(table)

  @classmethod
  def load(cls, folder: epath.Path, names: Sequence[str]) -> Columns:
    """Reads the columns of a folder with these splits."""
    tables = {}
    for name in (*_TABLES, *names):
      with (folder / f"{name}.arrow").open("rb") as file:
        tables[name] = pa.ipc.open_file(file).read_all()
    documents = {
      split: splits.Documents(
        *(
          tables[split][name].to_numpy()
          for name in ("users", "starts", "stops")
        )
      )
      for split in names
    }
    return cls(tables, documents)

  def size(self, split: str) -> int:
    """About how many bytes the messages of a split take."""
    per_item = self._texts.lengths() + self._item_ids.lengths()
    if split == CATALOGUE:
      return int(per_item.sum())
    before = np.concatenate([[0], np.cumsum(per_item[self._items])])
    part = self.documents[split]
    texts = np.sum(before[part.stops] - before[part.starts])
    return int(texts + _NUMBER_BYTES * np.sum(part.stops - part.starts))

  def files(self, split: str) -> list[File]:
    """The files of a split."""
    num_documents = self.num_documents(split)
    count = min(self.size(split) // _FILE_BYTES, num_documents) or 1
    return [File(split, number, count) for number in range(count)]

  def num_documents(self, split: str) -> int:
    """Documents of a split."""
    if split == CATALOGUE:
      return len(self._texts)
    return len(self.documents[split])

  def rows(self, file: File) -> np.ndarray:
    """The documents of a file, int64."""
    order = _order(file.split, self.num_documents(file.split))
    cuts = np.linspace(0, len(order), file.count + 1).astype(np.int64)
    return order[cuts[file.number] : cuts[file.number + 1]]

  def messages(self, file: File) -> Iterator[list[bytes]]:
    """The serialised examples of a file, some thousands at a time."""
    rows = self.rows(file)
    if file.split == CATALOGUE:
      for at in range(0, len(rows), _BLOCK_EVENTS):
        yield self._catalogue(rows[at : at + _BLOCK_EVENTS])
      return
    part = self.documents[file.split]
    ends = np.cumsum(part.stops[rows] - part.starts[rows])
    cuts = np.searchsorted(
      ends, np.arange(_BLOCK_EVENTS, ends[-1:].sum() + 1, _BLOCK_EVENTS)
    )
    for block in np.split(rows, np.unique(cuts)):
      if len(block):
        yield self._users(part.take(block))

  def _catalogue(self, items: np.ndarray) -> list[bytes]:
    one, none = np.arange(len(items) + 1), np.zeros(len(items) + 1, np.int64)
    empty = examples.numbers(items[:0], none)
    return self._serialise(
      items,
      one,
      user_id=_NOBODY.at(none[1:], one),
      timestamps=empty,
      events=empty,
    )

  def _users(self, part: splits.Documents) -> list[bytes]:
    events = part.events()
    lengths = part.stops - part.starts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return self._serialise(
      self._items[events],
      offsets,
      user_id=self._user_ids.at(part.users, np.arange(len(part) + 1)),
      timestamps=examples.numbers(self._timestamps[events], offsets),
      events=examples.numbers(events, offsets),
    )

  def _serialise(
    self, items: np.ndarray, offsets: np.ndarray, **features: Any
  ) -> list[bytes]:
    messages = examples.serialise(
      {
        "items": examples.numbers(items, offsets),
        "item_ids": self._item_ids.at(items, offsets),
        "texts": self._texts.at(items, offsets),
        **features,
      }
    )
    return messages.to_pylist()

  @functools.cached_property
  def _texts(self) -> examples.Texts:
    return examples.Texts(self._tables["items"]["texts"].combine_chunks())

  @functools.cached_property
  def _item_ids(self) -> examples.Texts:
    return examples.Texts(self._tables["items"]["ids"].combine_chunks())

  @functools.cached_property
  def _user_ids(self) -> examples.Texts:
    return examples.Texts(self._tables["users"]["ids"].combine_chunks())


def write(
  path: str | os.PathLike[str],
  columns: Columns,
  file: File,
  done: Callable[[int], Any] = lambda documents: None,
) -> int:
  """Writes a file.

  Args:
    path: of the file.
    columns: of the whole dataset.
    file: which of its files it is.
    done: told how many further documents were written.

  Returns:
    Bytes of its messages.
  """
  size = 0
  with (
    build_lock.room(path),
    tf.io.TFRecordWriter(os.fspath(path)) as writer,
  ):
    for messages in columns.messages(file):
      for message in messages:
        writer.write(message)
      size += sum(map(len, messages))
      done(len(messages))
  return size


def _texts(values: Sequence[str]) -> pa.LargeStringArray:
  if isinstance(values, id_codes.Column):  # Arrow's already.
    return values.values.cast(pa.large_string())
  return pa.array(values, pa.large_string())


def _order(split: str, num: int) -> np.ndarray:
  """A random order of a split's documents, always the same."""
  bits = np.random.PCG64(zlib.crc32(split.encode())).random_raw(num)
  return np.argsort(bits, kind="stable")


_NOBODY = examples.Texts([""])
