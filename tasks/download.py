"""Files from the web, whole or not at all.

A transfer goes to `NAME.part` and gets its name at the very end, so that a
file of the name is always whole. A transfer that broke off goes on where it
stopped if the server still has the same file; a second process waits for the
first. What was fetched is written down in `NAME.download.json`: address,
bytes, sha256.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
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
from calrec_jax.storage import atomic

ATTEMPTS = 5  # In a row without a byte; with one, counting begins again.
PAUSE_SECONDS = 2.0  # Before the second attempt; doubled each time.
TIMEOUT_SECONDS = 60.0  # Without an answer or a byte.

_CHUNK = 1 << 20
_MAGIC = {
  ".gz": b"\x1f\x8b",
  ".parquet": b"PAR1",
  ".json": b"{",
  ".jsonl": b"{",
}


class DownloadError(CalrecError, OSError):
  """No address gave the file; the message says why, and what to do."""


class _Unusable(Exception):
  """An address that will not give the file however often it is asked."""


def fetch(
  urls: Sequence[str],
  folder: str,
  *,
  sha256: Mapping[str, str] | None = None,
  remedy: str = "",
) -> str:
  """Fetches a file from the first address that has it.

  Args:
    urls: addresses of the same content, the best first; the last part of each
      is the file's name, which may differ in its suffix.
    folder: where to; it is made if it is not there.
    sha256: what is known of the content, by file name.
    remedy: what to do if no address works, for the message.

  Returns:
    The path. A file that is there already is not fetched again.

  Raises:
    DownloadError: if no address gave the right content.
    OSError: if it cannot be written; a full disk is named with what is needed.
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
      if os.path.isfile(path):  # Fetched by the process before.
        return path
      try:
        _Transfer(url, path, (sha256 or {}).get(_name(url))).run()
        return path
      except _Unusable as error:
        failures.append(f"  {url}: {error}")
  raise DownloadError(
    "No address gave the file:\n" + "\n".join(failures) + f"\n{remedy}".rstrip()
  )


class _Transfer:
  """One file from one address."""

  def __init__(self, url: str, path: str, sha256: str | None) -> None:
    self._url = url
    self._path = pathlib.Path(path)
    self._part = pathlib.Path(f"{path}.part")
    self._note = pathlib.Path(f"{path}.part.json")
    self._sha256 = sha256

  def run(self) -> None:
    """Fetches, checks and names the file."""
    failures, before = 0, -1
    while True:
      try:
        total = self._ask()
        break
      except (http.client.InvalidURL, ValueError) as error:
        raise _Unusable(str(error)) from error
      except (OSError, http.client.HTTPException) as error:
        _refuse_full_disk(error, self._part)
        if isinstance(getattr(error, "reason", None), socket.gaierror):
          raise _Unusable(_reason(error)) from error  # No such machine.
        have = self._have()
        failures = 1 if have > before else failures + 1
        before = have
        if failures >= ATTEMPTS:
          raise _Unusable(f"{_reason(error)}, {have:,} bytes kept") from error
        time.sleep(PAUSE_SECONDS * 2 ** (failures - 1))
    self._finish(total)

  def _ask(self) -> int | None:
    """One request; returns the length of the whole file, if it is told."""
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
        return have  # Nothing was missing any more.
      if error.code == 416:
        self._discard()
        raise ConnectionError("the server has less than was fetched") from error
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
        raise ConnectionError("the server went on with another file")
    else:
      first = answer.read(_CHUNK)
      self._refuse_wrong_content(first, answer.headers.get_content_type())
      # In this order: bytes of an older file never meet a newer note.
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
        f"the transfer broke off at {self._have():,} of {total:,} bytes"
      )
    return total

  def _finish(self, total: int | None) -> None:
    """Checks the whole file and gives it its name."""
    have = self._have()
    if total is not None and have != total:
      self._discard()
      raise _Unusable(f"{have:,} bytes came where {total:,} were announced")
    with open(self._part, "rb") as stream:
      found = hashlib.file_digest(stream, "sha256").hexdigest()
    if self._sha256 is not None and found != self._sha256:
      self._discard()
      raise _Unusable(f"the content's sha256 is {found}, not {self._sha256}")
    if total is None and self._path.suffix == ".gz":
      self._refuse_cut_gzip()  # Nothing else tells that it is whole.
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
        f"it gives {what} ({content_type}) where "
        f"{self._path.suffix.lstrip('.')} is expected; open it in a browser to "
        "see what the server says"
      )

  def _refuse_cut_gzip(self) -> None:
    try:
      with open(self._part, "rb") as stream:
        unpack = zlib.decompressobj(wbits=31)
        while piece := stream.read(_CHUNK):
          while piece:
            unpack.decompress(piece)
            piece = unpack.unused_data
            if unpack.eof and piece:
              unpack = zlib.decompressobj(wbits=31)
      whole = unpack.eof
    except zlib.error:
      whole = False
    if not whole:
      self._discard()
      raise _Unusable("the content ends too early, and its length is not told")

  def _continues(
    self, answer: http.client.HTTPResponse, have: int, total: int | None
  ) -> bool:
    """Whether an answer begins where the file on disk ends."""
    begins = answer.headers.get("Content-Range", "").startswith(
      f"bytes {have}-"
    )
    return begins and total == self._read_note().get("total")

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
    """What makes it possible to go on with this very file later."""
    tag = answer.headers.get("ETag")
    if tag is None or tag.startswith("W/"):  # Not equal to the byte.
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
  """Waits until no other process of this machine fetches to the folder."""
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
      f"{path.parent} has {free:,} bytes free and {wanted:,} more are needed",
    )


def _refuse_full_disk(error: BaseException, path: pathlib.Path) -> None:
  """Passes a full disk on with the folder's name: trying again is no use."""
  if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
    raise OSError(
      error.errno,
      f"the disk of {path.parent} is full ({error.strerror}); what was fetched "
      "is kept and the same command goes on with it",
    ) from error


def _reason(error: BaseException) -> str:
  if isinstance(error, urllib.error.URLError):
    return str(error.reason)
  return str(error) or type(error).__name__


def _write_json(path: pathlib.Path, value: Any) -> None:
  atomic.write_text(path, json.dumps(value, indent=2) + "\n")
