"""Bars for what takes long, on terminals only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tqdm

_QUIET_SECONDS = 2.0  # What is done sooner shows none.

_hidden = False


@contextlib.contextmanager
def hidden(hide: bool = True) -> Iterator[None]:
  """Shows no bars of `of_bytes` meanwhile, if `hide`."""
  global _hidden
  before, _hidden = _hidden, hide or _hidden
  try:
    yield
  finally:
    _hidden = before


def of_bytes(what: str, total: int | None, done: int = 0) -> tqdm.tqdm:
  """A bar that counts bytes; its `update` takes how many more were done.

  Args:
    what: Label of the bar.
    total: Number of bytes in all; None if that is not known.
    done: Number of bytes that were done before.
  """
  return tqdm.tqdm(
    total=total,
    initial=done,
    desc=what,
    unit="B",
    unit_scale=True,
    leave=False,
    delay=_QUIET_SECONDS,
    disable=True if _hidden else None,  # None: where it is no terminal.
  )
