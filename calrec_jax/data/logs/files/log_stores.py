"""Where files lie: on this machine, in buckets, on servers."""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Iterable
from typing import IO, Any

import fsspec

from calrec_jax.data.logs.files import containers
from calrec_jax.errors import InputError, MissingPackageError

# The extra that brings each protocol's file system; None needs none.
_EXTRAS: dict[str, str | None] = {
  **{"file": None, "memory": None},
  **{"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"},
  **{"http": "http", "https": "http"},
}
URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")
_NOT_DATA = frozenset((".crc", ".md", ".pdf", ".sha256", ".md5", ".lock"))
_NOT_DATA_NAMES = re.compile(r"(?i)(readme|licen[cs]e|changelog)\b")


def suffix(name: str) -> str:
  """Suffix of a name in lower case, without that of a compression."""
  if name.startswith("http"):
    name = name.partition("?")[0]
  stem, found = posixpath.splitext(posixpath.basename(name).lower())
  return posixpath.splitext(stem)[1] if found in containers.SUFFIXES else found


def is_data(name: str) -> bool:
  """Whether a path below a folder is data rather than a mark or a note."""
  parts = name.split("/")
  hidden = any(
    part.startswith((".", "_")) and "=" not in part for part in parts
  )
  other = posixpath.splitext(name.lower())[1] in _NOT_DATA
  described = _NOT_DATA_NAMES.match(parts[-1])
  return not (hidden or other or described or name.endswith("/"))


class Store:
  """The files of this machine."""

  @staticmethod
  def of(path: str) -> Store:
    """The store of a path or URL."""
    return _Remote(path) if URL.match(path) else Store()

  def is_file(self, path: str) -> bool:
    """Whether there is a file."""
    return os.path.isfile(path)

  def is_dir(self, path: str) -> bool:
    """Whether there is a folder."""
    return os.path.isdir(path)

  def size(self, path: str) -> int | None:
    """Number of bytes; None if unknown."""
    return os.path.getsize(path)

  def glob(self, pattern: str) -> Iterable[str]:
    """Files and folders that match a glob."""
    return glob.glob(pattern, recursive=True)

  def walk(self, folder: str) -> Iterable[str]:
    """Files below a folder, those in hidden ones left out."""
    for base, folders, files in os.walk(folder):
      folders[:] = [name for name in folders if is_data(name)]
      for name in files:
        yield os.path.join(base, name)

  def names(self, folder: str) -> list[str]:
    """Names in a folder; none if there is none."""
    return os.listdir(folder) if os.path.isdir(folder) else []


class _Remote(Store):
  """The files of a bucket or server."""

  def __init__(self, url: str) -> None:
    self._system, _ = _system(url)
    self._protocol = url.partition("://")[0]

  def _url(self, name: str) -> str:
    return name if URL.match(name) else f"{self._protocol}://{name.lstrip('/')}"

  def _info(self, path: str) -> dict[str, Any]:
    """What the server says of a path; nothing if there is none."""
    try:
      return self._system.info(path)
    except FileNotFoundError:
      return {}
    except Exception as error:  # Of as many kinds as there are servers.
      raise InputError(
        f"{path} cannot be reached: {error}. Check the address and your "
        "credentials for it."
      ) from error

  def is_file(self, path: str) -> bool:
    """Whether there is a file."""
    return self._info(path).get("type") == "file"

  def is_dir(self, path: str) -> bool:
    """Whether there is a folder."""
    # A server has no folders: any page is one to fsspec.
    return (
      not self._protocol.startswith("http")
      and self._info(path).get("type") == "directory"
    )

  def size(self, path: str) -> int | None:
    """Number of bytes; None if unknown."""
    return self._info(path).get("size")

  def glob(self, pattern: str) -> Iterable[str]:
    """Files and folders that match a glob."""
    if self._protocol.startswith("http"):
      return []
    return [self._url(str(name)) for name in self._system.glob(pattern)]

  def walk(self, folder: str) -> Iterable[str]:
    """Files below a folder, those in hidden ones left out."""
    return [self._url(name) for name in self._system.find(folder)]

  def names(self, folder: str) -> list[str]:
    """Names in a folder; none if there is none."""
    if not self.is_dir(folder):
      return []
    return [
      posixpath.basename(name.rstrip("/"))
      for name in self._system.ls(folder, detail=False)
    ]


def _system(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
  """The file system of a URL, and the path in it."""
  protocol = url.partition("://")[0].lower()
  if protocol not in _EXTRAS or "::" in url:
    raise InputError(
      f"{url}: files are read from {', '.join(f'{p}://' for p in _EXTRAS)} and "
      "this machine. Copy it to one of them."
    )
  try:
    return fsspec.core.url_to_fs(url)
  except ImportError as error:
    extra = _EXTRAS[protocol]
    raise MissingPackageError(
      f"{url}: {protocol}:// needs another package ({error}). Install it with "
      f"pip install 'calrec_jax[{extra}]'."
    ) from error


def open_stored(stored: str) -> IO[bytes]:
  """Opens a path or URL."""
  if not URL.match(stored):
    return open(stored, "rb")
  system, path = _system(stored)
  stream: Any = system.open(path, "rb")
  return stream


def size_of(stored: str) -> int | None:
  """Number of bytes at a path or URL; None if unknown."""
  if not URL.match(stored):
    return os.path.getsize(stored)
  system, path = _system(stored)
  return system.info(path).get("size")
