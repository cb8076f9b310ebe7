"""A library in a separate process, which runs one command at a time.

The parent writes and reads lines of JSON, so two libraries can be measured in
turns without sharing threads, memory or imports. The process is

    python -m benchmarks.library_process MODULE FOLDER CORES

where the module has a class `Library` and CORES are comma-separated.
"""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

ROOT = pathlib.Path(__file__).parents[1]


class LibraryError(RuntimeError):
  """A library's process failed."""


class Library(Protocol):
  """The commands of such a process."""

  def load(self, source: str, **options: Any) -> dict[str, Any]:
    """Loads parameters; returns their number."""
    ...

  def begin(self, part: str) -> dict[str, Any]:
    """Prepares training on "language_model" or "objective"."""
    ...

  def step(self, batch: int, check: bool = False) -> dict[str, float]:
    """One update on a batch; returns the losses before it, in nats.

    Args:
      batch: Number of the batch.
      check: Whether to return the gradient norm too.
    """
    ...


class LibraryProcess:
  """The parent's side."""

  def __init__(self, module: str, job: pathlib.Path, threads: int, device: str):
    """Starts it.

    Args:
      module: Module with its `Library`.
      job: Folder of a `library_job.Job`.
      threads: Number of cores that it may use.
      device: Device, "cpu" or "cuda".
    """
    cores = sorted(os.sched_getaffinity(0))[:threads]
    environment = os.environ | {
      "OMP_NUM_THREADS": str(len(cores)),
      "JAX_PLATFORMS": device,
      # Two libraries share the device.
      "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
      # Transformers must not download anything or import TensorFlow.
      "HF_HUB_OFFLINE": "1",
      "USE_TF": "0",
      "USE_FLAX": "0",
    }
    self._module = module
    self._errors = (job / f"{module}.log").open("w+", encoding="utf-8")
    self._process = subprocess.Popen(
      [
        *(sys.executable, "-m", "benchmarks.library_process"),
        *(module, str(job), ",".join(map(str, cores))),
      ],
      cwd=ROOT,
      env=environment,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      text=True,
    )

  def call(self, do: str, **arguments: Any) -> dict[str, Any]:
    """Runs a command.

    Returns:
      Its result, with `wall_seconds`, `cpu_seconds` of all threads, and
      `peak_bytes` of memory since the start of the process.

    Raises:
      LibraryError: If it failed, with the end of its log.
    """
    assert self._process.stdin is not None
    assert self._process.stdout is not None
    try:
      print(json.dumps({"do": do, **arguments}), file=self._process.stdin)
      self._process.stdin.flush()
      answer = self._process.stdout.readline()
    except BrokenPipeError:
      answer = ""
    if not answer:
      self._process.wait()
      self._errors.seek(0)
      end = self._errors.read()[-3000:]
      raise LibraryError(f"{self._module} failed at {do}:\n{end}")
    return json.loads(answer)

  def __enter__(self) -> LibraryProcess:
    return self

  def __exit__(self, *problem: Any) -> None:
    assert self._process.stdin is not None
    self._process.stdin.close()
    self._process.wait()
    assert self._process.stdout is not None
    self._process.stdout.close()
    self._errors.close()


def serve(library: Library) -> None:
  """The child's side: runs commands until the input ends."""
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # Output of the libraries must not mix with results.
  for line in sys.stdin:
    request: Mapping[str, Any] = json.loads(line)
    arguments = {name: request[name] for name in request if name != "do"}
    wall, cpu = time.perf_counter(), time.process_time()
    answer = getattr(library, request["do"])(**arguments)
    answer = {
      **answer,
      "wall_seconds": time.perf_counter() - wall,
      "cpu_seconds": time.process_time() - cpu,
      "peak_bytes": peak_bytes(),
    }
    print(json.dumps(answer), file=answers, flush=True)


def peak_bytes() -> int:
  """Peak memory of this process.

  Not `getrusage`, whose value starts from that of the parent process.
  """
  status = pathlib.Path("/proc/self/status").read_text("utf-8")
  [line] = [x for x in status.splitlines() if x.startswith("VmHWM:")]
  return int(line.split()[1]) * 1024


def main(module: str, job: str, cores: str) -> None:
  """Restricts the process to its cores before a library counts them."""
  os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
  serve(importlib.import_module(module).Library(pathlib.Path(job)))


if __name__ == "__main__":
  main(*sys.argv[1:])
