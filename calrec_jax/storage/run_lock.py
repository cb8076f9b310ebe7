"""One run at a time in a folder: two would overwrite each other's checkpoints.

The lock is the operating system's, which releases it when the process ends, for
whatever reason.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import socket
import time
from collections.abc import Iterator
from typing import IO

from calrec_jax.errors import CalrecError
from calrec_jax.storage.build_lock import NO_LOCKS

# A run that was killed just now may still be ending.
PATIENCE_SECONDS = 5.0
_POLL_SECONDS = 0.1


class RunningError(CalrecError, RuntimeError):
  """A folder in which another process is training."""


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
  """Holds a folder, such as a stage's, which need not exist yet.

  File systems without locks hold nothing.

  Args:
    folder: Folder that only one process may write; the lock is in `.locks` next
      to it.

  Raises:
    RunningError: If another process holds it, with its number and machine.
  """
  locks = folder.parent / ".locks"
  locks.mkdir(parents=True, exist_ok=True)
  with (locks / folder.name).open("a+", encoding="utf-8") as file:
    try:
      _lock(file)
    except BlockingIOError:
      file.seek(0)
      holder = file.read().strip() or "another process"
      raise RunningError(
        f"{folder} is in use: {holder} is training in it. Wait until it has "
        "ended, or give another MODEL_DIR."
      ) from None
    except OSError as error:
      if error.errno not in NO_LOCKS:
        raise
    else:
      file.truncate(0)
      file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
      file.flush()
    yield


def _lock(file: IO[str]) -> None:
  """Takes the lock.

  Raises:
    BlockingIOError: If it is still held after `PATIENCE_SECONDS`.
  """
  end = time.monotonic() + PATIENCE_SECONDS
  while True:
    try:
      return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      if time.monotonic() > end:
        raise
      time.sleep(_POLL_SECONDS)
