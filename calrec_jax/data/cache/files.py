"""The files of a token cache: names, schema, checks, and record access.

A cache is a folder that is written once, atomically, and never changed:

    catalogue.arrayrecord       item id and text by catalogue row (msgpack)
    catalogue.tokens.npy        token ids of all items, one after another
    catalogue.lengths.npy       tokens of each item
    catalogue.train_counts.npy  training events of each item
    catalogue.train_recent.npy  the same, a user's n-th last event as 1/n
    catalogue.twins.npy         first row with the same tokens
    SPLIT.arrayrecord           user id, items and timestamps (msgpack)
    SPLIT.lengths.npy           tokens of every event, user after user
    SPLIT.offsets.npy           start of each user's events in it
    SPLIT.kinds.npy             kind of every event   } only where a domain has
    SPLIT.targets.npy           which may be targets  } several kinds of event
    prompt.json  card.json  vocabulary/
    COMPLETED                   the manifest: schema, counts, sizes, hashes

`token_cache` reads such a folder and `writer` writes one; nothing else opens
these files.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from array_record.python import (
  array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
)

from calrec_jax.errors import CalrecError
from calrec_jax.storage.identity import file_sha256

SCHEMA = 2
# Version of what training reads: raised when the same files give other bytes.
CONTENT_SCHEMA = 1
MANIFEST = "COMPLETED"
MARKS = {"kinds": np.dtype(np.int8), "targets": np.dtype(bool)}
"""Columns that the events of some domains have, see `DocumentRecord`."""

# Readahead would fetch neighbours that a shuffled plan does not read.
_READER_OPTIONS = "readahead_buffer_size:0"


class CacheError(CalrecError, RuntimeError):
  """A token cache that cannot be used; the message names the remedy."""


class CatalogueRecord(NamedTuple):
  """One item to write: its id, cleaned text, and token ids."""

  item_id: str
  text: str
  tokens: Sequence[int] | np.ndarray


class DocumentRecord(NamedTuple):
  """One user: catalogue rows, oldest first, and what is known of each event.

  Attributes:
    user_id: Id of the user in the source.
    items: int32[n], catalogue rows, oldest first.
    timestamps: int64[n], times or positions, or None.
    kinds: int8[n], codes of `EventKinds`, or None if events have one kind.
    targets: bool[n], which events may be targets, or None if all may.
  """

  user_id: str
  items: np.ndarray
  timestamps: np.ndarray | None
  kinds: np.ndarray | None = None
  targets: np.ndarray | None = None


class Records:
  """One ArrayRecord file with random access."""

  def __init__(self, folder: pathlib.Path, name: str):
    self._folder = folder
    self._name = f"{name}.arrayrecord"

  @functools.cached_property
  def _reader(self):
    return array_record_module.ArrayRecordReader(
      str(self._folder / self._name), _READER_OPTIONS
    )

  def read(self, indices: Sequence[int] | np.ndarray | None) -> list[bytes]:
    """The records at `indices`, or all of them."""
    try:
      if indices is None:
        return self._reader.read_all()
      return self._reader.read(np.asarray(indices).tolist())
    except IndexError:
      raise
    except Exception as error:  # The type depends on the native error status.
      raise CacheError(
        f"{self._folder / self._name} cannot be read ({error}). "
        f"{remedy(self._folder)}"
      ) from error


def check(path: pathlib.Path, *, thorough: bool = False) -> dict[str, Any]:
  """Checks that no file of a cache is missing, truncated or altered.

  Args:
    path: Folder of the cache.
    thorough: Whether records are compared with their hashes too, not only
      their sizes; ArrayRecord also has checksums of its own.

  Returns:
    The manifest.

  Raises:
    CacheError: If a file is wrong, with the file and the remedy.
  """
  manifest = read_manifest(path)
  for name, expected in manifest["files"].items():
    hashed = thorough or not name.endswith(".arrayrecord")
    _check_file(path, name, expected, hashed=hashed)
  return manifest


def read_manifest(path: pathlib.Path) -> dict[str, Any]:
  """The manifest of a complete cache.

  Raises:
    CacheError: If there is none, or one of another schema.
  """
  if not path.is_dir():
    raise CacheError(f"There is no token cache at {path}. {remedy(path)}")
  try:
    manifest = json.loads((path / MANIFEST).read_text("utf-8"))
  except (OSError, ValueError) as error:
    raise CacheError(
      f"The token cache {path} is not complete: its file {MANIFEST} is "
      f"missing or unreadable ({error}). {remedy(path)}"
    ) from error
  if manifest.get("schema") != SCHEMA:
    raise CacheError(
      f"The token cache {path} has schema {manifest.get('schema')}, and this "
      f"version reads schema {SCHEMA}. {remedy(path)}"
    )
  return manifest


def _check_file(
  folder: pathlib.Path, name: str, expected: Mapping[str, Any], *, hashed: bool
) -> None:
  file = folder / name
  if not file.is_file():
    raise CacheError(
      f"The token cache {folder} is missing {name}. {remedy(folder)}"
    )
  size = file.stat().st_size
  if size != expected["bytes"]:
    raise CacheError(
      f"{file} has {size} bytes instead of {expected['bytes']}: it was "
      f"truncated or changed. {remedy(folder)}"
    )
  if hashed and file_sha256(file) != expected["sha256"]:
    raise CacheError(
      f"{file} is corrupt: its sha256 is not the one in {MANIFEST}. "
      f"{remedy(folder)}"
    )


def remedy(path: pathlib.Path) -> str:
  """What to do about a cache that cannot be used."""
  return (
    f"Remedy: delete {path} if it exists, and run `calrec data cache` with "
    "the gin file of the run."
  )
