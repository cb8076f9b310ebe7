"""The documents and items of a domain as examples of a TFDS dataset.

Everything a document needs, texts included, is in its example, so that the
datasets can be read without this project.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions at run time.)

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.domain import splits
from calrec_jax.data.logs import id_codes

CATALOGUE = "catalogue"  # A split of documents of one item, without a user.
SPLITS = (CATALOGUE, *splits.SPLITS)

_NUMBER_BYTES = 16  # Of one event's three numbers, about.
_TABLES = ("items", "events", *splits.SPLITS)


class Examples:
  """The examples of a prepared domain; any range of them can be made alone.

  Attributes:
    tables: Arrow tables of the items, of the events and of each split's
      documents, which are what examples are made of.
  """

  def __init__(self, tables: dict[str, pa.Table]):
    self.tables = tables
    self._item_ids: list[str] = tables["items"]["item_id"].to_pylist()
    self._texts: list[str] = tables["items"]["text"].to_pylist()
    self._items: np.ndarray = tables["events"]["item"].to_numpy()
    self._timestamps: np.ndarray = tables["events"]["timestamp"].to_numpy()

  @classmethod
  def of(cls, prepared: domain_lib.Prepared) -> Examples:
    """The examples of a prepared domain."""
    events = prepared.events
    user_ids = id_codes.strings(events.user_ids)
    tables = {
      "items": {"item_id": prepared.item_ids, "text": prepared.texts},
      "events": {"item": events.items, "timestamp": events.timestamps},
    }
    for split, part in prepared.documents.items():
      tables[split] = {
        "user_id": user_ids.take(pa.array(part.users)),
        "start": part.starts,
        "stop": part.stops,
      }
    return cls({name: pa.table(table) for name, table in tables.items()})

  def save(self, folder: epath.Path) -> None:
    """Writes the tables to a folder, from where other machines load them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in self.tables.items():
      with (
        (folder / f"{name}.arrow").open("wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
      ):
        writer.write_table(table)

  @classmethod
  def load(cls, folder: epath.Path) -> Examples:
    """Reads what `save` wrote."""
    tables = {}
    for name in _TABLES:
      with (folder / f"{name}.arrow").open("rb") as file:
        tables[name] = pa.ipc.open_file(file).read_all()
    return cls(tables)

  def count(self, split: str) -> int:
    """The number of examples of a split."""
    return len(self.tables["items" if split == CATALOGUE else split])

  def num_bytes(self) -> int:
    """About how large the examples of all splits are, in bytes."""
    items = self.tables["items"]
    sizes = sum(
      pc.binary_length(items[name]).to_numpy() for name in items.column_names
    )
    before = np.concatenate([[0], np.cumsum(sizes[self._items])])
    total = sizes.sum()
    for split in splits.SPLITS:
      starts, stops = (
        self.tables[split][name].to_numpy() for name in ("start", "stop")
      )
      total += np.sum(before[stops] - before[starts])
      total += _NUMBER_BYTES * np.sum(stops - starts)
    return int(total)

  def read(
    self, split: str, start: int = 0, stop: int | None = None
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    """Some examples of a split, each with a key that is unique in it.

    Args:
      split: Name of the split.
      start: Index of the first example.
      stop: Index after the last example; None reads all.
    """
    rows = self.tables["items" if split == CATALOGUE else split].slice(
      start, None if stop is None else stop - start
    )
    if split == CATALOGUE:
      for item, item_id in enumerate(rows["item_id"].to_pylist(), start):
        none = np.zeros(0, np.int64)
        yield item_id, self._example("", np.array([item]), none, none)
      return
    columns = (rows[name].to_pylist() for name in ("user_id", "start", "stop"))
    for user_id, first, end in zip(*columns, strict=True):
      events = np.arange(first, end)
      yield (
        user_id,
        self._example(
          user_id, self._items[events], self._timestamps[events], events
        ),
      )

  def _example(
    self,
    user_id: str,
    items: np.ndarray,
    timestamps: np.ndarray,
    events: np.ndarray,
  ) -> dict[str, Any]:
    return {
      "user_id": user_id,
      "items": items.astype(np.int32),
      "item_ids": [self._item_ids[item] for item in items.tolist()],
      "texts": [self._texts[item] for item in items.tolist()],
      "timestamps": timestamps,
      "events": events,
    }
