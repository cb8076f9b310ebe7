"""Processes of one job: how they find each other, wait, and fail.

Nothing happens on one machine. Several processes join where the environment
says so, before any device is touched:

- CALREC_COORDINATOR (host:port of process 0), CALREC_NUM_PROCESSES and
  CALREC_PROCESS_ID, all three, or
- CALREC_DISTRIBUTED=auto, where JAX finds out by itself (Cloud TPU, GKE,
  Slurm, Open MPI).

A process that dies is noticed by the others after CALREC_HEARTBEAT_SECONDS;
they end then and name it. Tested by `tests/unit/test_distributed.py` and
`tests/multiprocess`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping

import jax
from jax.experimental import multihost_utils

from calrec_jax.errors import CalrecError

_COORDINATOR = "CALREC_COORDINATOR"
_COUNT = "CALREC_NUM_PROCESSES"
_INDEX = "CALREC_PROCESS_ID"
_HOW = "CALREC_DISTRIBUTED"
# Seconds until a silent process counts as dead: JAX's own figure.
_HEARTBEAT = ("CALREC_HEARTBEAT_SECONDS", 100)
# Seconds until all must have come: hosts of a pod do not start at once.
_JOIN = ("CALREC_JOIN_SECONDS", 600)


class DistributedError(CalrecError, ValueError):
  """An environment that does not say how the processes find each other."""


def processes(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
  """This process's number and how many there are, by CALREC_PROCESS_ID.

  Returns:
    (0, 1) where the environment names no processes.

  Raises:
    DistributedError: which variable, and the remedy.
  """
  named = [name for name in (_COUNT, _INDEX) if environment.get(name)]
  if not named:
    return 0, 1
  if len(named) == 1:
    [missing] = {_COUNT, _INDEX} - set(named)
    raise DistributedError(
      f"{named[0]} is set and {missing} is not. Set both, or neither for a run "
      "of one process."
    )
  count = _number(environment, _COUNT, at_least=1)
  index = _number(environment, _INDEX, at_least=0)
  if index >= count:
    raise DistributedError(
      f"{_INDEX} = {index}, but {_COUNT} = {count}: they count from 0 to "
      f"{count - 1}."
    )
  return index, count


def join(environment: Mapping[str, str] = os.environ) -> None:
  """Connects the processes of a job; of one process nothing happens.

  Raises:
    DistributedError: which variable, and the remedy.
  """
  how = environment.get(_HOW, "")
  if how not in ("", "auto"):
    raise DistributedError(
      f"{_HOW} = {how!r}: set it to auto, or do not set it."
    )
  heartbeat = _number(environment, *_HEARTBEAT, at_least=1)
  patience = _number(environment, *_JOIN, at_least=1)
  index, count = processes(environment)
  address = environment.get(_COORDINATOR)
  if count > 1 and not address:
    raise DistributedError(
      f"{_COUNT} = {count}, but {_COORDINATOR} is not set. Set it to "
      "HOST:PORT of process 0, a free port that all reach."
    )
  if address and not environment.get(_COUNT):
    raise DistributedError(
      f"{_COORDINATOR} is set, {_COUNT} and {_INDEX} are not. Set all three."
    )
  if address and not address.rpartition(":")[2].isdigit():
    raise DistributedError(f"{_COORDINATOR} = {address!r}: give HOST:PORT.")
  if (count == 1 and not how) or jax.distributed.is_initialized():
    return
  _say(
    f"process {index} of {count} waits for the others at {address}"
    if count > 1
    else "JAX looks for the other processes",
    f"for at most {patience} seconds ({_JOIN[0]})",
  )
  jax.distributed.initialize(
    address if count > 1 else None,
    count if count > 1 else None,
    index if count > 1 else None,
    initialization_timeout=patience,
    heartbeat_timeout_seconds=heartbeat,
    # One that failed waits as long for the others to say farewell; they may
    # hang in a collective without it, and learn of it then.
    shutdown_timeout_seconds=heartbeat,
  )
  _say(
    f"process {jax.process_index()} of {jax.process_count()} has joined",
    f"one that dies is noticed after {heartbeat} seconds ({_HEARTBEAT[0]})",
  )


@contextlib.contextmanager
def failures_explained() -> Iterator[None]:
  """Says which process failed, and where to look for the reason."""
  try:
    yield
  except Exception:
    if jax.distributed.is_initialized():
      _say(
        f"process {jax.process_index()} of {jax.process_count()} failed",
        "if that is because another one died, it is named below as "
        "'Task NUMBER', once it has been silent for as long as was said above",
      )
    raise


def together(place: str) -> None:
  """Waits until all processes are here; of one process nothing happens."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(place)


@contextlib.contextmanager
def first_before_others(place: str) -> Iterator[None]:
  """What is inside is done by process 0, and then by the others at once.

  For what the first one writes and the others find.
  """
  if jax.process_index():
    together(place)
  yield
  if not jax.process_index():
    together(place)


def _say(what: str, more: str) -> None:
  print(f"calrec: {what}; {more}.", file=sys.stderr, flush=True)


def _number(
  environment: Mapping[str, str],
  name: str,
  default: int | None = None,
  *,
  at_least: int,
) -> int:
  text = environment.get(name) or str(default)
  if not text.isdigit() or int(text) < at_least:
    raise DistributedError(
      f"{name} = {text!r}: set it to a whole number, at least {at_least}."
    )
  return int(text)
