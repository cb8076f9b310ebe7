"""Files and folders that appear whole or not at all.

A file or folder is filled beside its place and moved there: readers see the old
one or the new one, and a killed process leaves at most a hidden one.
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
  """A file to fill, which takes the place of `path` when the block ends.

  Where the block raises, it is removed and `path` stays as it was.

  Args:
    path: Path of the file; its folder is made when needed.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, name = tempfile.mkstemp(
    prefix=f".{path.name}.", suffix=".partial", dir=path.parent
  )
  os.close(handle)
  part = pathlib.Path(name)
  try:
    yield part
    part.chmod(0o666 & ~_umask())  # mkstemp gives the owner only.
    part.replace(path)
  finally:
    part.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(
  path: pathlib.Path, *, or_existing: bool = False
) -> Iterator[pathlib.Path]:
  """A folder to fill, `.<name>-...`, which becomes `path` when the block ends.

  Where the block raises, it is removed.

  Args:
    path: Path of the folder; the folder around it is made when needed.
    or_existing: Whether a folder that another process has published there
      meanwhile is as good.

  Raises:
    OSError: where `path` exists already and holds something.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  part = pathlib.Path(
    tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)
  )
  try:
    yield part
    part.chmod(0o777 & ~_umask())  # mkdtemp gives the owner only.
    try:
      part.rename(path)
    except OSError:
      if not (or_existing and path.exists()):
        raise
  finally:
    shutil.rmtree(part, ignore_errors=True)


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file in UTF-8."""
  with replacing(path) as part:
    part.write_text(text, "utf-8")


def _umask() -> int:
  umask = os.umask(0)
  os.umask(umask)
  return umask
