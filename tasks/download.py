"""Atomic and resumable downloads.

A download is written to `NAME.part` and renamed at the end, so that a file of
that name is always complete. An interrupted download resumes if the server
still has the same file; a second process waits for the first. Address, size and
sha256 are recorded in `NAME.download.json`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import http.client
import json
import os
import pathlib
import shutil
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from calrec_jax.data.logs import progress
from calrec_jax.errors import CalrecError
from calrec_jax.storage import atomic, identity

ATTEMPTS = 5  # Consecutive attempts without receiving any data.
PAUSE_SECONDS = 2.0  # Before the second attempt; doubles each time.
TIMEOUT_SECONDS = 60.0  # Without a response or data.

_CHUNK = 1 << 20
_MAGIC = {
  ".gz": b"\x1f\x8b",
  ".parquet": b"PAR1",
  ".json": b"{",
  ".jsonl": b"{",
}


class DownloadError(CalrecError, OSError):
  """No address provided the file; the message has the reasons and a remedy."""


class _Unusable(Exception):
  """A permanent failure of an address."""


def fetch(
  urls: Sequence[str],
  folder: str,
  *,
  sha256: Mapping[str, str] | None = None,
  remedy: str = "",
) -> str:
  """Downloads a file from the first address that has it.

  Args:
    urls: Addresses of the same content, best first; the last part of each is
      the file's name, which may differ in its suffix.
    folder: Folder for the file; created if missing.
    sha256: Known hashes by file name.
    remedy: Remedy for the message if no address works.

  Returns:
    The path. An existing file is not downloaded again.

  Raises:
    DownloadError: If no address provided the right content.
    OSError: If the file cannot be written, with the space needed on a full
      disk.
  """
  for url in urls:
    path = os.path.join(folder, _name(url))
    if os.path.isfile(path):
      return path
  os.makedirs(folder, exist_ok=True)
  failures = []
  for url in urls:
    path = os.path.join(folder, _name(url))
    with _alone(folder):
      if os.path.isfile(path):  # Downloaded by another process.
        return path
      try:
        _Transfer(url, path, (sha256 or {}).get(_name(url))).run()
        return path
      except _Unusable as error:
        failures.append(f"  {url}: {error}")
  raise DownloadError(
    "The download failed at every address:\n"
    + "\n".join(failures)
    + f"\n{remedy}".rstrip()
  )


class _Transfer:
  """A download of one file from one address."""

  def __init__(self, url: str, path: str, sha256: str | None) -> None:
    self._url = url
    self._path = pathlib.Path(path)
    self._part = pathlib.Path(f"{path}.part")
    self._note = pathlib.Path(f"{path}.part.json")
    self._sha256 = sha256

  def run(self) -> None:
    """Downloads, verifies and renames the file."""
    failures, before = 0, -1
    while True:
      try:
        total = self._request()
        break
      except (http.client.InvalidURL, ValueError) as error:
        raise _Unusable(str(error)) from error
      except (OSError, http.client.HTTPException) as error:
        _refuse_full_disk(error, self._part)
        if isinstance(getattr(error, "reason", None), socket.gaierror):
          raise _Unusable(_reason(error)) from error  # No such host.
        have = self._have()
        failures = 1 if have > before else failures + 1
        before = have
        if failures >= ATTEMPTS:
          raise _Unusable(
            f"{_reason(error)}; the {have:,} bytes received so far are saved"
          ) from error
        time.sleep(PAUSE_SECONDS * 2 ** (failures - 1))
    self._finish(total)

  def _request(self) -> int | None:
    """Sends one request; returns the length of the whole file, if known."""
    have, note = self._have(), self._read_note()
    if not have or note.get("url") != self._url or not note.get("validator"):
      have = 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "calrec_jax"}
    if have:
      # A server whose file has changed sends all of it.
      headers |= {"Range": f"bytes={have}-", "If-Range": note["validator"]}
    request = urllib.request.Request(self._url, headers=headers)
    try:
      answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
      error.close()
      if error.code == 416 and have and have == note.get("total"):
        return have  # Already complete.
      if error.code == 416:
        self._discard()
        raise ConnectionError(
          "the server's file is shorter than what was received"
        ) from error
      if error.code in (408, 429) or error.code >= 500:
        raise ConnectionError(f"HTTP {error.code} {error.reason}") from error
      raise _Unusable(f"HTTP {error.code} {error.reason}") from error
    with answer:
      return self._receive(answer, have)

  def _receive(self, answer: http.client.HTTPResponse, have: int) -> int | None:
    length = answer.headers.get("Content-Length")
    continued = have if answer.status == 206 else 0
    total = continued + int(length) if length and length.isdigit() else None
    first = b""
    if continued:
      if not self._continues(answer, have, total):
        self._discard()
        raise ConnectionError("the server resumed with a different file")
    else:
      first = answer.read(_CHUNK)
      self._refuse_wrong_content(first, answer.headers.get_content_type())
      # In this order, data of an older file never has a newer record.
      self._discard()
      self._write_note(answer, total)
    if total is not None:
      _refuse_small_disk(self._part, total - continued)
    with (
      open(self._part, "ab") as stream,
      progress.of_bytes(f"fetch {self._path.name}", total, continued) as bar,
    ):
      piece = first or answer.read(_CHUNK)
      while piece:
        stream.write(piece)
        bar.update(len(piece))
        piece = answer.read(_CHUNK)
      stream.flush()
      os.fsync(stream.fileno())
    if total is not None and self._have() < total:
      raise ConnectionError(
        f"the download was interrupted at {self._have():,} of {total:,} bytes"
      )
    return total

  def _finish(self, total: int | None) -> None:
    """Verifies the whole file and renames it."""
    have = self._have()
    if total is not None and have != total:
      self._discard()
      raise _Unusable(f"received {have:,} bytes, expected {total:,}")
    found = identity.file_sha256(self._part)
    if self._sha256 is not None and found != self._sha256:
      self._discard()
      raise _Unusable(f"the sha256 is {found}, expected {self._sha256}")
    if total is None and self._path.suffix == ".gz":
      self._check_gzip()  # Nothing else shows that it is complete.
    record = {"url": self._url, "bytes": have, "sha256": found}
    _write_json(pathlib.Path(f"{self._path}.download.json"), record)
    os.replace(self._part, self._path)
    self._note.unlink(missing_ok=True)

  def _refuse_wrong_content(self, first: bytes, content_type: str) -> None:
    magic = _MAGIC.get(self._path.suffix)
    page = first.lstrip()[:64].lower().startswith((b"<!doctype", b"<html"))
    if page or (magic is not None and not first.startswith(magic)):
      what = "a web page" if page else f"{first[:16]!r}…"
      raise _Unusable(
        f"received {what} ({content_type}), expected "
        f"{self._path.suffix.lstrip('.')}; open the address in a browser to "
        "see what the server says"
      )

  def _check_gzip(self) -> None:
    try:
      with gzip.open(self._part) as stream:
        while stream.read(_CHUNK):
          pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
      self._discard()
      raise _Unusable(
        "the content is truncated, and its length is unknown"
      ) from error

  def _continues(
    self, answer: http.client.HTTPResponse, have: int, total: int | None
  ) -> bool:
    """Whether a response starts where the file on disk ends."""
    sent = answer.headers.get("Content-Range", "")
    same_total = total == self._read_note().get("total")
    return sent.startswith(f"bytes {have}-") and same_total

  def _have(self) -> int:
    return self._part.stat().st_size if self._part.exists() else 0

  def _read_note(self) -> dict[str, Any]:
    try:
      note = json.loads(self._note.read_text("utf-8"))
    except (OSError, ValueError):
      return {}
    return note if isinstance(note, dict) else {}

  def _write_note(
    self, answer: http.client.HTTPResponse, total: int | None
  ) -> None:
    """Records what is needed to resume this file later."""
    tag = answer.headers.get("ETag")
    if tag is None or tag.startswith("W/"):  # A weak tag: not byte-identical.
      tag = answer.headers.get("Last-Modified")
    note = {"url": self._url, "validator": tag, "total": total}
    _write_json(self._note, note)

  def _discard(self) -> None:
    self._part.unlink(missing_ok=True)
    self._note.unlink(missing_ok=True)


def _name(url: str) -> str:
  path = urllib.parse.urlsplit(url).path
  return urllib.parse.unquote(path.rpartition("/")[2])


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
  """Waits until no other process on this machine downloads to the folder."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    fcntl.flock(handle, fcntl.LOCK_EX)
    yield
  finally:
    os.close(handle)


def _refuse_small_disk(path: pathlib.Path, wanted: int) -> None:
  free = shutil.disk_usage(path.parent).free
  if wanted > free:
    raise OSError(
      errno.ENOSPC,
      f"{path.parent} has {free:,} bytes free, but {wanted:,} more are needed",
    )


def _refuse_full_disk(error: BaseException, path: pathlib.Path) -> None:
  """Re-raises a full disk with the folder's name, instead of retrying."""
  if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
    raise OSError(
      error.errno,
      f"the disk of {path.parent} is full ({error.strerror}); the data "
      "received so far is saved, and the same command resumes the download",
    ) from error


def _reason(error: BaseException) -> str:
  if isinstance(error, urllib.error.URLError):
    return str(error.reason)
  return str(error) or type(error).__name__


def _write_json(path: pathlib.Path, value: Any) -> None:
  atomic.write_text(path, json.dumps(value, indent=2) + "\n")
