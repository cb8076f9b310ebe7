"""Files and folders that appear complete or not at all.

They are written next to their path and then moved there: readers see the old
or the new version, and a killed process leaves at most a hidden partial one.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A file to fill, which replaces `path` when the block ends.

  If the block raises, it is removed and `path` stays unchanged.

  Args:
    path: Path of the file; its folder is created if needed.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, name = tempfile.mkstemp(
    prefix=f".{path.name}.", suffix=".partial", dir=path.parent
  )
  os.close(handle)
  part = pathlib.Path(name)
  try:
    yield part
    part.chmod(0o666 & ~_umask())  # mkstemp grants only the owner access.
    part.replace(path)
  except OSError as error:
    raise _naming(error, path) from error
  finally:
    part.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(
  path: pathlib.Path, *, or_existing: bool = False
) -> Iterator[pathlib.Path]:
  """A folder to fill, `.<name>-...`, which becomes `path` when the block ends.

  If the block raises, it is removed.

  Args:
    path: Path of the folder; its parent is created if needed.
    or_existing: Whether to accept a folder that is already there, such as one
      that another process has written meanwhile.

  Raises:
    OSError: If `path` is not empty and not accepted.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  prefix = f".{path.name}-"
  part = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
  try:
    yield part
    part.chmod(0o777 & ~_umask())  # mkdtemp grants only the owner access.
    try:
      part.rename(path)
    except OSError:
      if not (or_existing and path.exists()):
        raise
  except OSError as error:
    raise _naming(error, path) from error
  finally:
    shutil.rmtree(part, ignore_errors=True)


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file in UTF-8."""
  with replacing(path) as part:
    part.write_text(text, "utf-8")


def _naming(error: OSError, path: pathlib.Path) -> OSError:
  """The error, with the path that was to be written if it names none.

  Writing to a full disk says only that there is no space left.
  """
  if error.filename is not None or str(path) in str(error):
    return error
  if error.errno is None or error.strerror is None:
    return type(error)(f"{path}: {error}")
  return OSError(error.errno, error.strerror, str(path))


def _umask() -> int:
  umask = os.umask(0)
  os.umask(umask)
  return umask
