"""Files that appear whole or not at all.

A file is filled under a temporary name and moved into place: readers see the
old one or the new one, and a killed process leaves at most a hidden `.partial`
file. Tested by `tests/unit/test_atomic.py`.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A file to fill, which takes the place of `path` when the block ends.

  Where the block raises, it is removed and `path` stays as it was.

  Args:
    path: of the file; its folder is made when needed.
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


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file in UTF-8."""
  with replacing(path) as part:
    part.write_text(text, "utf-8")


def _umask() -> int:
  umask = os.umask(0)
  os.umask(umask)
  return umask
