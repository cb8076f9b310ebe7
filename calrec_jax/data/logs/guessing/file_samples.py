"""The first rows of files that someone looks at for the first time."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

import pyarrow as pa

from calrec_jax.data.logs.columns import arrow_columns, text_lists
from calrec_jax.data.logs.files import (
  log_paths,
  log_stores,
  nested,
  read_options,
  zip_archives,
)
from calrec_jax.data.logs.guessing import profile
from calrec_jax.data.logs.guessing.profile import Profile
from calrec_jax.data.logs.reading import lists_in_texts, tables
from calrec_jax.errors import InputError

_ROWS = 20_000
_ENOUGH = 1000  # Rows of several files, if the first has fewer.
_FILES = 31
_TABLES = 24  # More files than these are parts of one table.


@dataclasses.dataclass(frozen=True, eq=False)
class Sampled:
  """Files of the same columns, and what the first rows hold.

  Attributes:
    paths: The paths as the user named them.
    how: How each was read, in words.
    size: Bytes of the files.
    profiles: Profile of each column.
    headless: Whether no header names the columns.
    sequences: Whether each line is a user and the items.
  """

  paths: tuple[str, ...]
  how: tuple[str, ...]
  size: int
  profiles: Mapping[str, Profile]
  headless: bool = False
  sequences: bool = False

  @property
  def shown(self) -> str:
    """The paths for a message."""
    return ", ".join(self.paths)


def samples(path: str) -> list[Sampled]:
  """Samples what a path names: one table, or the tables of a folder or archive.

  A folder with files of different columns holds several tables, such as
  purchases and items.
  """
  try:
    files = log_paths.expand(path, None)
    inside = [file.path for file in files]
    if any(file.partitions for file in files):
      inside = []  # A partitioned table.
  except InputError:
    inside = _inside(path)
    if not inside:
      raise
    files = []
  if 1 < len(inside) <= _TABLES:
    found = [sample(each) for each in inside]
    if not files or len(merged(found)) > 1:
      return found
  return [sample(path)]


def _inside(path: str) -> list[str]:
  """Paths of the files in a folder or archive of this machine."""
  if os.path.isdir(path):
    names = log_stores.Store.of(path).walk(path)
    return sorted(
      name for name in names if log_stores.is_data(name[len(path) :].strip("/"))
    )
  if os.path.isfile(path) and zip_archives.is_zip(path):
    names = filter(log_stores.is_data, zip_archives.members(path))
    return [f"{path}/{name}" for name in sorted(names)]
  return []


def sample(path: str) -> Sampled:
  """Samples the first of the files that a path names."""
  files = log_paths.expand(path, None)
  first, options = files[0], read_options.ReadOptions()
  size = sum(file.size or 0 for file in files)
  found = tables.sample(first, options, _ROWS)
  headless = found.headless and not found.sequences
  if found.sequences:
    options = dataclasses.replace(options, format="sequences")
    found = tables.sample(first, options, _ROWS)
  elif headless:
    count = len(found.available) - len(first.partitions)
    numbered = tuple(f"column_{i + 1}" for i in range(count))
    options = dataclasses.replace(options, columns=numbered)
    found = tables.sample(first, options, _ROWS)
  table = _with_more(files[1:], options, found)
  columns = profile.profiles(table, options.missing)
  is_table = found.how.startswith(("csv", "sequences", "xlsx"))
  if not is_table and any(nested.EACH in name for name in found.available):
    columns = _inside_lists(first, options, found.available, columns)
  elif not headless and found.how.startswith(lists_in_texts.FORMATS):
    columns = _inside_texts(first, options, columns)
  return Sampled(
    (path,), (found.how,), size, columns, headless, found.sequences
  )


def _with_more(
  files: Sequence[log_paths.LogPath],
  options: read_options.ReadOptions,
  first: tables.Sample,
) -> pa.Table:
  """The rows of a small first file with those of others of the folder."""
  parts = [first.table]
  for file in files[:_FILES]:
    if sum(map(len, parts)) >= _ENOUGH:
      break
    found = tables.sample(file, options, _ROWS, first.table.column_names)
    parts.append(found.table)
  return arrow_columns.concatenated(parts)


def _inside_lists(
  file: log_paths.LogPath,
  options: read_options.ReadOptions,
  available: Sequence[str],
  flat: dict[str, Profile],
) -> dict[str, Profile]:
  """Columns with those of the list that holds the items, if one does."""
  items = [n for n in profile.ranked("item", flat) if flat[n].unique < 1]
  if items and profile.ranked("user", flat):
    return flat
  best, score = flat, 0
  for inner in dict.fromkeys(_list_of(name) for name in available):
    if not inner or tables.are_rows(inner, available):
      continue
    around = [
      name
      for name in available
      if inner.startswith(_list_of(name)) and _list_of(name) != inner
    ]
    names = [
      *dict.fromkeys(
        [
          *(n for n in around if n in tables.plain_names(around, _list_of(n))),
          *tables.plain_names(available, inner),
        ]
      )
    ]
    table = tables.sample(file, options, _ROWS, names).table
    columns = profile.profiles(table, options.missing)
    inside = {n: one for n, one in columns.items() if _list_of(n) == inner}
    if profile.ranked("item", inside) and len(inside) > score:
      best, score = columns, len(inside)
  return best


def _inside_texts(
  file: log_paths.LogPath,
  options: read_options.ReadOptions,
  flat: dict[str, Profile],
) -> dict[str, Profile]:
  """Columns with the items of the texts that list them, `1 2 3`, if some do."""
  users = profile.ranked("user", flat)
  lists = [
    name
    for name, one in flat.items()
    if name not in users and text_lists.look_like(one.column)
  ]
  others = {name: one for name, one in flat.items() if name not in lists}
  items = profile.ranked("item", others, users[:1])
  if not users or len(lists) != 1 or any(flat[n].unique < 1 for n in items):
    return flat
  names = [*others, lists[0] + nested.EACH]
  table = tables.sample(file, options, _ROWS, names).table
  return profile.profiles(table, options.missing)


def _list_of(name: str) -> str:
  """The innermost list that a column is in: `a[].b[]` of `a[].b[].c`."""
  before, each, _ = name.rpartition(nested.EACH)
  return before + each


def merged(files: Sequence[Sampled]) -> list[Sampled]:
  """Files of the same columns, such as months, as one."""
  found: dict[object, Sampled] = {}
  for number, file in enumerate(files):
    columns = [
      (name, file.headless and (one.time is None, one.is_numeric))
      for name, one in file.profiles.items()
    ]
    key: object = (tuple(columns), file.headless, file.sequences)
    if not columns:
      key = number
    if (one := found.get(key)) is not None:
      file = dataclasses.replace(
        one,
        paths=(*one.paths, *file.paths),
        how=(*one.how, *file.how),
        size=one.size + file.size,
      )
    found[key] = file
  return list(found.values())
