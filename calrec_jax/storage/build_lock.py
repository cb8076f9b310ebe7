"""One builder at a time, and nothing left of one that was killed.

Whatever is built is written beside its path and then moved there, so that what
is found at its path is complete. A process that is killed in between leaves a
partial copy behind; the next one that builds the same thing removes it. The
lock is the operating system's and ends with its process, however that ends.
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

# What says that a disk is full, whatever the type of the exception: TensorFlow
# and ArrayRecord have types of their own.
_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)


class DiskFullError(CalrecError, OSError):
  """The disk is too full for what is to be written.

  Attributes:
    path: Path of what was to be written.
    needed_bytes: Size of it, about, or None.
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
      "are free there. What was begun is removed: make room, or choose another "
      "Dataset.data_dir, and run the command again."
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
  """Waits until no other process builds something, and removes its leftovers.

  Args:
    folder: Folder of all that is built, which holds the locks.
    name: Name of what is built, fit for a file.
    leftovers: Glob pattern of unfinished copies, within `folder`.
    say: Function that reports that another process is building, and what is
      removed.
  """
  folder = pathlib.Path(folder)
  locks = folder / ".locks"
  locks.mkdir(parents=True, exist_ok=True)
  with (locks / name).open("w") as file:
    if _lock(file, name, say):
      for path in folder.glob(leftovers):
        say(f"{path} was left unfinished; removing it")
        _remove(path)
    yield


def _lock(file: IO[str], name: str, say: Callable[[str], None]) -> bool:
  """Takes the lock, or returns False where the file system has none."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    say(f"{name}: another process is building it; waiting")
    fcntl.flock(file, fcntl.LOCK_EX)
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise
    return False
  return True


def _remove(path: pathlib.Path) -> None:
  if path.is_dir():
    shutil.rmtree(path, ignore_errors=True)
  else:
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def room(
  path: str | os.PathLike[str], needed_bytes: int | None = None
) -> Iterator[None]:
  """Says plainly that the disk is full, beforehand where the size is known.

  Args:
    path: Path of what is written.
    needed_bytes: Size of it, about.

  Raises:
    DiskFullError: If the disk is full, with the path, what is needed and what
      is free.
  """
  if needed_bytes is not None and needed_bytes > _free_bytes(path):
    raise DiskFullError(path, needed_bytes, _free_bytes(path))
  try:
    yield
  except DiskFullError as error:  # From within, before anything was removed.
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
  place = pathlib.Path(path).absolute()
  while not place.exists():
    place = place.parent
  return shutil.disk_usage(place).free
