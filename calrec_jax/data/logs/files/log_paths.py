"""The files that a setting names: lists, globs, folders, archives, buckets.

A path may be a file, a glob, a folder of a table's parts, a zip archive or one
of its members (`log.zip/ratings.csv`), each on this machine or at a URL.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import posixpath
import re
import urllib.parse
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from calrec_jax import config
from calrec_jax.data.logs.files import formats, log_stores, zip_archives
from calrec_jax.errors import InputError, nearest
from calrec_jax.storage import identity

_GLOB = re.compile(r"[*?[]")
_PARTITION = re.compile(r"([^=/]+)=([^/]*)")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_FOLDERS_OF_TABLES = {
  "_delta_log": "a Delta table",
  ".hoodie": "a Hudi table",
}
_ICEBERG = re.compile(r"(?:^|/)metadata/[^/]+\.metadata\.json$")
_BINDINGS = "LogFiles.interactions, LogFiles.items and LogFiles.folder"
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class LogPath:
  """One file of a log.

  Attributes:
    path: The file as messages name it, such as `log.zip/ratings.csv`.
    stored: Path or URL of the stored file: of the archive, for a member.
    member: Name of the member of a zip archive.
    sheet: Name of the sheet of a workbook.
    partitions: Values of a partitioned folder's name by column, None where
      missing.
  """

  path: str
  stored: str
  member: str | None = None
  sheet: str | None = None
  partitions: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

  @property
  def is_local(self) -> bool:
    """Whether the file lies on this machine as it is, in no archive."""
    return not log_stores.URL.match(self.stored) and self.member is None

  @functools.cached_property
  def size(self) -> int | None:
    """Number of the stored bytes; None if a server does not say it."""
    if self.member is not None:
      with self._archive() as archive:
        return archive.getinfo(self.member).file_size
    return log_stores.size_of(self.stored)

  @property
  def suffix(self) -> str:
    """Suffix in lower case, without that of a compression."""
    return log_stores.suffix(self.member or self.stored)

  def open(self) -> IO[bytes]:
    """Opens the stored bytes, those of a zip's member unpacked.

    Raises:
      InputError: If an archive is damaged or encrypted.
    """
    if self.member is None:
      return log_stores.open_stored(self.stored)
    return zip_archives.open_member(self._archive(), self.member, self.path)

  def _archive(self) -> zipfile.ZipFile:
    return zip_archives.opened(self.stored)

  def sha256(self) -> str:
    """Hash of the stored bytes; with the name of the member or sheet, if any.

    A local file is read once while it stays the same.
    """
    if log_stores.URL.match(self.stored):
      with log_stores.open_stored(self.stored) as stream:
        stored = _hash(stream)
    else:
      status = os.stat(self.stored)
      stored = _sha256(
        os.path.realpath(self.stored), status.st_size, status.st_mtime_ns
      )
    parts = [part for part in (self.member, self.sheet) if part is not None]
    return identity.digest([stored, *parts]) if parts else stored


def inputs(files: Iterable[LogPath]) -> list[dict[str, Any]]:
  """Files as JSON for a card: `file`, `bytes` and `sha256`."""
  return [
    {
      "file": posixpath.basename(file.path),
      "bytes": file.size,
      "sha256": file.sha256(),
    }
    for file in files
  ]


def local(path: str) -> LogPath:
  """A file of this machine.

  Raises:
    FileNotFoundError: If there is no such file.
  """
  if not os.path.isfile(path):
    raise FileNotFoundError(_not_found(log_stores.Store.of(path), path))
  return LogPath(path, path)


@functools.lru_cache(maxsize=4096)
def _sha256(path: str, size: int, modified_ns: int) -> str:
  del size, modified_ns  # Part of the key only.
  return identity.file_sha256(path)


def _hash(stream: IO[bytes]) -> str:
  found = hashlib.sha256()
  while piece := stream.read(1 << 20):
    found.update(piece)
  return found.hexdigest()


def expand(paths: str | Sequence[str], folder: str | None) -> list[LogPath]:
  """The files that a setting names.

  Args:
    paths: Path, glob, folder, archive or URL, or several of them.
    folder: Folder or URL of relative paths; None is the current folder.

  Returns:
    The files: each path's in natural order (`part-2` before `part-10`).

  Raises:
    FileNotFoundError: If a path names nothing.
    InputError: If a file is named twice, or a folder or an archive does not
      tell which of its files are meant.
    MissingPackageError: If the file system of a URL is not installed.
  """
  if isinstance(paths, (str, os.PathLike)):
    paths = [os.fspath(paths)]
  if not isinstance(paths, Sequence) or not paths:
    raise InputError(f"{paths!r} names no file. Set {_BINDINGS}.")
  found: list[LogPath] = []
  for path in paths:
    if not isinstance(path, (str, os.PathLike)):
      raise InputError(f"{path!r} is no path. Set {_BINDINGS}.")
    found += _of_one(os.fspath(path), folder)
  seen: set[tuple[str, ...]] = set()
  for file in found:
    real = (
      file.stored
      if log_stores.URL.match(file.stored)
      else os.path.realpath(file.stored)
    )
    key = (real, file.member or "", file.sheet or "")
    if key in seen:
      raise InputError(
        f"{file.path} is named twice, so its rows would be read twice. Name "
        "each file once."
      )
    seen.add(key)
  return found


def _of_one(path: str, folder: str | None) -> list[LogPath]:
  """The files of one path of a setting."""
  if not path:
    raise InputError(f"A path is empty. Set {_BINDINGS}.")
  full = _joined(path, folder)
  store = log_stores.Store.of(full)
  inner = len(full) - len(path) if full.endswith(path) else 0
  if store.is_file(full):
    names = [full]
  elif store.is_dir(full):
    names = _of_folder(store, full)
  elif inside := _inside(store, full):
    return inside
  elif _GLOB.search(full):
    names = _of_glob(store, full)
  else:
    names = []
  if not names:
    raise FileNotFoundError(_not_found(store, full))
  found = []
  for name in names:
    partitions = _partitions(name[inner:] if inner < len(name) else name)
    found += _opened(LogPath(name, name, partitions=partitions))
  return found


def _joined(path: str, folder: str | None) -> str:
  full = os.path.expanduser(path)
  if folder and not log_stores.URL.match(full):
    base = os.path.expanduser(folder)
    if log_stores.URL.match(base):
      full = base.rstrip("/") + "/" + full.lstrip("/")
    else:
      full = os.path.join(base, full)
  if full.startswith("file://"):
    full = urllib.parse.unquote(full.removeprefix("file://"))
  return full


def _opened(file: LogPath) -> list[LogPath]:
  """The file, or the members of the archive that it is."""
  formats.refuse_unread(file.path, file.suffix)
  if not zip_archives.is_zip(file.stored):
    return [file]
  names = zip_archives.members(file.stored)
  if any(name.startswith("xl/") for name in names):
    return [file]
  kept = sorted(filter(log_stores.is_data, names), key=_natural)
  if not kept:
    raise InputError(f"{file.path} holds no data file.")
  if len(kept) > 1 and not zip_archives.are_alike(file.stored, kept):
    raise InputError(
      f"{file.path} holds {_listed(kept)}. Name one, such as "
      f"{file.path}/{kept[0]}, or several by a list or a glob."
    )
  return [_member(file, name) for name in kept]


def _member(file: LogPath, name: str) -> LogPath:
  path = f"{file.path}/{name}"
  formats.refuse_unread(path, log_stores.suffix(name))
  partitions = {**file.partitions, **_partitions(name)}
  return LogPath(path, file.stored, name, partitions=partitions)


def _inside(store: log_stores.Store, full: str) -> list[LogPath]:
  """The members or the sheet that a path through a file names."""
  parts = full.split("/")
  for i in range(len(parts) - 1, 0, -1):
    outer, inner = "/".join(parts[:i]), "/".join(parts[i:])
    if outer.endswith((":", ":/")) or not outer or not store.is_file(outer):
      continue
    if not zip_archives.is_zip(outer):
      raise InputError(
        f"{full}: {outer} is a file, neither a folder nor a zip archive nor a "
        "workbook."
      )
    file = LogPath(outer, outer, partitions=_partitions(outer))
    names = zip_archives.members(outer)
    if any(name.startswith("xl/") for name in names):
      return [dataclasses.replace(file, path=full, sheet=inner)]
    if inner in names:
      return [_member(file, inner)]
    pattern = re.compile(_glob_pattern(inner))
    kept = [
      name
      for name in names
      if log_stores.is_data(name)
      and (pattern.fullmatch(name) or name.startswith(inner.rstrip("/") + "/"))
    ]
    if not kept:
      raise FileNotFoundError(
        f"{outer} has no member {inner}; it holds "
        f"{_listed(list(filter(log_stores.is_data, names)))}."
        + nearest(inner, names)
      )
    return [_member(file, name) for name in sorted(kept, key=_natural)]
  return []


def _glob_pattern(text: str) -> str:
  """A glob as a regular expression; `*` stays within a folder."""
  parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", text)
  special = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
  for i in range(1, len(parts), 2):
    part = parts[i]
    parts[i] = special.get(part) or part.replace("[!", "[^")
  parts[::2] = map(re.escape, parts[::2])
  return "".join(parts)


def _of_folder(store: log_stores.Store, folder: str) -> list[str]:
  """The data files below a folder, which must be of one kind."""
  for name, what in _FOLDERS_OF_TABLES.items():
    if store.is_dir(posixpath.join(folder, name)):
      raise InputError(
        f"{folder} is {what}: its files hold rows that were deleted or "
        "replaced since. Export the current table as Parquet."
      )
  below = [
    name
    for name in store.walk(folder)
    if log_stores.is_data(name[len(folder) :].strip("/"))
  ]
  if any(_ICEBERG.search(name[len(folder) :]) for name in below):
    raise InputError(
      f"{folder} is an Iceberg table: its files hold rows that were deleted or "
      "replaced since. Export the current table as Parquet."
    )
  kept = [name for name in below if store.size(name) != 0]
  kinds: dict[str, int] = {}
  for name in sorted(kept):
    kinds[log_stores.suffix(name)] = kinds.get(log_stores.suffix(name), 0) + 1
  if len(kinds) > 1:
    counted = ", ".join(
      f"{count} {kind or 'without suffix'}"
      for kind, count in sorted(kinds.items())
    )
    most = max(kinds, key=lambda kind: kinds[kind])
    raise InputError(
      f"{folder} holds files of several kinds ({counted}). Name those that you "
      f"mean by a glob, such as {folder.rstrip('/')}/**/*{most}."
    )
  if not kept:
    raise FileNotFoundError(f"{folder} holds no data file. Set {_BINDINGS}.")
  return sorted(kept, key=_natural)


def _of_glob(store: log_stores.Store, pattern: str) -> list[str]:
  names: list[str] = []
  explicit = posixpath.basename(pattern).startswith(("_", "."))
  for name in sorted(store.glob(pattern), key=_natural):
    if store.is_dir(name):
      if log_stores.is_data(posixpath.basename(name.rstrip("/"))):
        names += [
          below
          for below in store.walk(name)
          if log_stores.is_data(below[len(name) :].strip("/"))
        ]
    elif explicit or log_stores.is_data(posixpath.basename(name)):
      names.append(name)
  # `**` finds both a folder and the files in it.
  names = [name for name in dict.fromkeys(names) if store.size(name) != 0]
  return sorted(names, key=_natural)


def _natural(name: str) -> list[Any]:
  """Sorting key in which numbers count as such."""
  parts = re.split(r"(\d+)", name)
  return [
    (part, 0) if i % 2 == 0 else ("", int(part)) for i, part in enumerate(parts)
  ] + [(name, 0)]


def _partitions(path: str) -> dict[str, str | None]:
  """Columns that the folders of a path name, as Hive does."""
  found: dict[str, str | None] = {}
  for part in path.split("/")[:-1]:
    if match := _PARTITION.fullmatch(part):
      name, value = map(urllib.parse.unquote, match.groups())
      found[name] = None if value == _NO_VALUE else value
  return found


def _listed(names: Sequence[str]) -> str:
  more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
  return (", ".join(names[:_SHOWN]) or "nothing") + more


def _not_found(store: log_stores.Store, full: str) -> str:
  """That there is no such file, where it was sought and what is there."""
  what = "no file matches" if _GLOB.search(full) else "There is no file"
  base = posixpath.dirname(_GLOB.split(full)[0] if _GLOB.search(full) else full)
  known = nearest(posixpath.basename(full), store.names(base or "."))
  shown = base or "."
  if not log_stores.URL.match(full):
    shown = os.path.abspath(shown)
    if not os.path.isdir(shown):
      shown += ", which does not exist"
    if found := config.beside(full):
      shown += (
        f"; paths are relative to the working directory, and {found} exists "
        "beside the gin file"
      )
  return f"{what} {full} (in {shown}).{known} Set {_BINDINGS}."
