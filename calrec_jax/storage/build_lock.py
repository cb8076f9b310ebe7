"""One builder at a time, without leftovers of killed ones.

Everything is written next to its path and then moved there, so that a path is
always complete. A process that is killed in between leaves a partial copy; the
next one that builds the same thing removes it. The lock is the operating
system's, which releases it when the process ends, for whatever reason.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import IO

from calrec_jax.errors import CalrecError

# Errors of a full disk. TensorFlow and ArrayRecord raise their own types, with
# the error in the text.
_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)


class DiskFullError(CalrecError, OSError):
  """The disk is too full.

  Attributes:
    path: Path that was to be written.
    needed_bytes: Its approximate size in bytes, or None.
    free_bytes: Bytes that were free there.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    needed_bytes: int | None,
    free_bytes: int,
  ) -> None:
    needs = " cannot be written"
    if needed_bytes is not None:
      needs = f" needs about {needed_bytes:,} bytes"
    super().__init__(
      f"The disk is full: {os.fspath(path)}{needs}, and {free_bytes:,} bytes "
      "are free there. The partial copy is removed: free some space, or choose "
      "another Dataset.data_dir, and run the command again."
    )
    self.path, self.needed_bytes = path, needed_bytes
    self.free_bytes = free_bytes


@contextlib.contextmanager
def alone(
  folder: str | os.PathLike[str],
  name: str,
  *,
  leftovers: str,
  say: Callable[[str], None] = logging.info,
) -> Iterator[None]:
  """Waits until no other process builds the same thing; removes leftovers.

  Args:
    folder: Root folder, in which the locks are.
    name: Name of the lock's file.
    leftovers: Glob pattern of unfinished copies, within `folder`.
    say: Function that reports waiting and removals.
  """
  folder = pathlib.Path(folder)
  locks = folder / ".locks"
  locks.mkdir(parents=True, exist_ok=True)
  with (locks / name).open("w") as file:
    if _lock(file, name, say):
      for path in folder.glob(leftovers):
        say(f"{path} was left unfinished; removing it")
        if path.is_dir():
          shutil.rmtree(path, ignore_errors=True)
        else:
          path.unlink(missing_ok=True)
    yield


def _lock(file: IO[str], name: str, say: Callable[[str], None]) -> bool:
  """Takes the lock, or returns False if the file system has none."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    say(f"{name}: another process is building it; waiting")
    fcntl.flock(file, fcntl.LOCK_EX)
  except OSError as error:
    if error.errno not in NO_LOCKS:
      raise
    return False
  return True


@contextlib.contextmanager
def room(
  path: str | os.PathLike[str], needed_bytes: int | None = None
) -> Iterator[None]:
  """Raises `DiskFullError` if the disk is full, early if the size is known.

  Args:
    path: Path that is written.
    needed_bytes: Its approximate size in bytes, or None.
  """
  if needed_bytes is not None and needed_bytes > _free_bytes(path):
    raise DiskFullError(path, needed_bytes, _free_bytes(path))
  try:
    yield
  except DiskFullError as error:  # From within, before removing the files.
    if needed_bytes is None or error.needed_bytes is not None:
      raise
    raise DiskFullError(path, needed_bytes, error.free_bytes) from error
  except Exception as error:
    if not _is_full(error):
      raise
    raise DiskFullError(path, needed_bytes, _free_bytes(path)) from error


def _is_full(error: Exception) -> bool:
  if isinstance(error, OSError) and error.errno is not None:
    return error.errno in _FULL_ERRNOS
  text = str(error)
  return any(os.strerror(number) in text for number in _FULL_ERRNOS)


def _free_bytes(path: str | os.PathLike[str]) -> int:
  path = pathlib.Path(path).absolute()
  existing = next(p for p in (path, *path.parents) if p.exists())
  return shutil.disk_usage(existing).free
