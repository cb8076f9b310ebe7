"""Work on a stream, a few inputs ahead of its reader."""

from __future__ import annotations

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Input = TypeVar("_Input")
_Output = TypeVar("_Output")


def in_order(
  work: Callable[[_Input], _Output],
  inputs: Iterable[_Input],
  workers: int | None = None,
) -> Iterator[_Output]:
  """Applies a function in threads, a few inputs ahead.

  Args:
    work: Function of one input; threads only help if it releases the
      interpreter's lock.
    inputs: Inputs, taken one by one in the caller's thread.
    workers: Number of threads; None is one per core.

  Yields:
    Outputs in the order of the inputs.
  """
  workers = workers or len(os.sched_getaffinity(0))
  ahead: collections.deque[concurrent.futures.Future[_Output]]
  ahead = collections.deque()
  pool = concurrent.futures.ThreadPoolExecutor(workers)
  try:
    for one in inputs:
      ahead.append(pool.submit(work, one))
      if len(ahead) > workers:
        yield ahead.popleft().result()
    while ahead:
      yield ahead.popleft().result()
  finally:  # Also if the reader stops early.
    pool.shutdown(cancel_futures=True)
