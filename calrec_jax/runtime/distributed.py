"""Processes of one job: how they find each other, wait, and fail.

A single process needs none of this. Several processes join if the environment
says so, before any device is used:

- CALREC_COORDINATOR (host:port of process 0), CALREC_NUM_PROCESSES and
  CALREC_PROCESS_ID, all three, or
- CALREC_DISTRIBUTED=auto, for which JAX detects the cluster (Cloud TPU, GKE,
  Slurm, Open MPI).

The others notice that a process died after CALREC_HEARTBEAT_SECONDS; then they
end and name it. Tested by `tests/unit/test_distributed.py` and
`tests/multiprocess`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from calrec_jax.errors import CalrecError

_COORDINATOR = "CALREC_COORDINATOR"
_COUNT = "CALREC_NUM_PROCESSES"
_INDEX = "CALREC_PROCESS_ID"
_HOW = "CALREC_DISTRIBUTED"
# Seconds until a silent process counts as dead (JAX's default), and until all
# must have joined: hosts of a pod do not start at once.
_HEARTBEAT = "CALREC_HEARTBEAT_SECONDS"
_JOIN = "CALREC_JOIN_SECONDS"
_DEFAULTS = {_HEARTBEAT: 100, _JOIN: 600}


class DistributedError(CalrecError, ValueError):
  """An environment from which the processes cannot find each other."""


def processes(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
  """Index and number of processes, by CALREC_PROCESS_ID and ..._NUM_PROCESSES.

  Returns:
    (0, 1) if the environment sets neither.

  Raises:
    DistributedError: with the variable and the remedy.
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
  """Connects the processes of a job; does nothing for one process.

  Raises:
    DistributedError: with the variable and the remedy.
  """
  how = environment.get(_HOW, "")
  if how not in ("", "auto"):
    raise DistributedError(
      f"{_HOW} = {how!r}: set it to auto, or do not set it."
    )
  heartbeat = _number(environment, _HEARTBEAT, at_least=1)
  patience = _number(environment, _JOIN, at_least=1)
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
  waits = "JAX looks for the other processes"
  if count > 1:
    waits = f"process {index} of {count} waits for the others at {address}"
  _say(f"{waits}; for at most {patience} seconds ({_JOIN})")
  coordinator, number, own = (
    (address, count, index) if count > 1 else (None, None, None)
  )
  jax.distributed.initialize(
    coordinator,
    number,
    own,
    initialization_timeout=patience,
    heartbeat_timeout_seconds=heartbeat,
    # A process that failed waits as long for the others to shut down; they may
    # hang in a collective without it, and learn of the failure then.
    shutdown_timeout_seconds=heartbeat,
  )
  _say(
    f"process {jax.process_index()} of {jax.process_count()} has joined; one "
    f"that dies is noticed after {heartbeat} seconds ({_HEARTBEAT})"
  )


@contextlib.contextmanager
def failures_explained() -> Iterator[None]:
  """Reports which process failed, and where to look for the reason."""
  try:
    yield
  except Exception:
    if jax.distributed.is_initialized():
      _say(
        f"process {jax.process_index()} of {jax.process_count()} failed; if "
        "that is because another one died, it is named below as 'Task NUMBER' "
        "once the time that was reported above has passed"
      )
    raise


def together(point: str) -> None:
  """Waits until all processes reach this point, named for diagnosis."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(point)


def agreed(value: float) -> float:
  """What process 0 says, for decisions that depend on a clock."""
  if jax.process_count() == 1:
    return value
  return float(multihost_utils.broadcast_one_to_all(np.float32(value)))


@contextlib.contextmanager
def first_before_others(point: str) -> Iterator[None]:
  """Process 0 runs the block first, then the others run it at once.

  For what the first one writes and the others find.
  """
  if jax.process_index():
    together(point)
  yield
  if not jax.process_index():
    together(point)


def _say(text: str) -> None:
  print(f"calrec: {text}.", file=sys.stderr, flush=True)


def _number(environment: Mapping[str, str], name: str, *, at_least: int) -> int:
  text = environment.get(name) or str(_DEFAULTS.get(name))
  if not text.isdigit() or int(text) < at_least:
    raise DistributedError(
      f"{name} = {text!r}: set it to a whole number, at least {at_least}."
    )
  return int(text)
