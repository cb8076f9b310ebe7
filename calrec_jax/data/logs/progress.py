"""Progress bars of long steps, on terminals only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tqdm

_QUIET_SECONDS = 2.0  # Shorter steps show no bar.

_hidden = False


@contextlib.contextmanager
def hidden(hide: bool = True) -> Iterator[None]:
  """Hides the bars of `of_bytes` within the block if `hide` is set."""
  global _hidden
  before, _hidden = _hidden, hide or _hidden
  try:
    yield
  finally:
    _hidden = before


def of_bytes(what: str, total: int | None, done: int = 0) -> tqdm.tqdm:
  """A bar that counts bytes.

  Args:
    what: Label of the bar.
    total: Total number of bytes; None if unknown.
    done: Number of bytes already done.
  """
  return tqdm.tqdm(
    total=total,
    initial=done,
    desc=what,
    unit="B",
    unit_scale=True,
    leave=False,
    delay=_QUIET_SECONDS,
    disable=True if _hidden else None,  # None hides it outside terminals.
  )
