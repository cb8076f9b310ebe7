"""Zip archives: their members as streams, never extracted to disk."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import IO, Any

from calrec_jax.data.logs.files import log_stores
from calrec_jax.errors import InputError

_ZIP = b"PK\x03\x04"
_EMPTY_ZIP = b"PK\x05\x06"
# What zipfile raises on damage, and on methods that it does not know.
_BAD_ZIP = (
  *(zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError),
  *(struct.error, OverflowError),
)


def is_zip(stored: str) -> bool:
  """Whether a path or URL is a zip archive, whatever its name."""
  if log_stores.URL.match(stored) and log_stores.suffix(stored) not in (
    ".zip",
    ".xlsx",
    ".xlsm",
  ):
    return False  # Do not open each part of a table in a bucket for this.
  with log_stores.open_stored(stored) as stream:
    return stream.read(len(_ZIP)) in (_ZIP, _EMPTY_ZIP)


def opened(stored: str) -> zipfile.ZipFile:
  """Opens an archive at a path or URL."""
  stream = log_stores.open_stored(stored)
  try:
    return _Archive(stream)
  except _BAD_ZIP as error:
    stream.close()
    raise InputError(
      f"{stored} is a damaged zip archive ({error}). Fetch it again."
    ) from error


def members(stored: str) -> list[str]:
  """Names of the files in an archive."""
  with opened(stored) as archive:
    return [info.filename for info in archive.infolist() if not info.is_dir()]


def are_alike(stored: str, names: Sequence[str]) -> bool:
  """Whether the members of an archive are parts of one table."""
  if len({log_stores.suffix(name) for name in names}) > 1:
    return False
  if len({re.sub(r"\d+", "0", name) for name in names}) == 1:
    return True
  heads = set()
  for name in names:
    archive = opened(stored)
    with open_member(archive, name, f"{stored}/{name}") as member:
      heads.add(member.readline(1 << 16).strip())
  return len(heads) == 1


def open_member(archive: zipfile.ZipFile, name: str, path: str) -> IO[bytes]:
  """Opens a member; closing it closes the archive."""
  try:
    return io.BufferedReader(_Member(archive, archive.open(name), path))
  except RuntimeError as error:  # Also NotImplementedError.
    archive.close()
    raise InputError(
      f"{path} cannot be unpacked here ({error}). Unpack the archive yourself."
    ) from error
  except _BAD_ZIP as error:
    archive.close()
    raise InputError(
      f"{path} is damaged ({error}). Fetch the archive again."
    ) from error


class _Archive(zipfile.ZipFile):
  """A zip archive that owns the stream that it reads."""

  def __init__(self, stream: IO[bytes]) -> None:
    self._stream = stream
    super().__init__(stream)

  def close(self) -> None:
    super().close()
    self._stream.close()


class _Member(io.RawIOBase):
  """A member of a zip archive as a stream."""

  def __init__(
    self, archive: zipfile.ZipFile, member: IO[bytes], path: str
  ) -> None:
    self._archive, self._member, self._path = archive, member, path

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    try:
      part = self._member.read(len(buffer))
    except (*_BAD_ZIP, zlib.error) as error:
      raise InputError(
        f"{self._path} is damaged or ends too early ({error}). Fetch the "
        "archive again."
      ) from error
    buffer[: len(part)] = part
    return len(part)

  def close(self) -> None:
    if not self.closed:
      self._member.close()
      self._archive.close()
    super().close()
