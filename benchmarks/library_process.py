"""A library in a process of its own, which does one thing at a time.

The parent asks in lines of JSON and reads lines of JSON, so two libraries can
be measured in turns without sharing threads, memory or their imports. The
process is

    python -m benchmarks.library_process MODULE FOLDER CORES

where the module has a class `Library` and CORES are joined by commas.
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
  """What such a process can do."""

  def load(self, source: str, **options: Any) -> dict[str, Any]:
    """Makes parameters ready for use; returns their number."""
    ...

  def begin(self, part: str) -> dict[str, Any]:
    """Gets ready to train on "language_model" or on "objective"."""
    ...

  def step(self, batch: int, check: bool = False) -> dict[str, float]:
    """One update on a batch; returns the losses before it, in nats.

    Args:
      batch: its number.
      check: whether the norm of the gradient is returned too.
    """
    ...


class LibraryProcess:
  """The parent's end."""

  def __init__(self, module: str, job: pathlib.Path, threads: int, device: str):
    """Starts it.

    Args:
      module: where its `Library` is.
      job: the folder of a `library_job.Job`.
      threads: cores it may use.
      device: "cpu" or "cuda".
    """
    cores = sorted(os.sched_getaffinity(0))[:threads]
    environment = os.environ | {
      "OMP_NUM_THREADS": str(len(cores)),
      "JAX_PLATFORMS": device,
      # Two libraries share the device.
      "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
      # Transformers fetches nothing and does not import TensorFlow.
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

  def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
    """Has it do something.

    Returns:
      What it returns, with `wall_seconds`, `cpu_seconds` of all its threads,
      and `peak_bytes` of memory since it was started.

    Raises:
      LibraryError: if it failed, with the end of its log.
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
  """The child's end: answers until there are no more questions."""
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # What the libraries print is no answer.
  for line in sys.stdin:
    asked: Mapping[str, Any] = json.loads(line)
    arguments = {name: asked[name] for name in asked if name != "do"}
    wall, cpu = time.perf_counter(), time.process_time()
    answer = getattr(library, asked["do"])(**arguments)
    answer = {
      **answer,
      "wall_seconds": time.perf_counter() - wall,
      "cpu_seconds": time.process_time() - cpu,
      "peak_bytes": peak_bytes(),
    }
    print(json.dumps(answer), file=answers, flush=True)


def peak_bytes() -> int:
  """Most memory that this process has held.

  Not `getrusage`, whose figure begins with that of the process that started
  this one.
  """
  status = pathlib.Path("/proc/self/status").read_text("utf-8")
  [line] = [x for x in status.splitlines() if x.startswith("VmHWM:")]
  return int(line.split()[1]) * 1024


def main(module: str, job: str, cores: str) -> None:
  """Keeps to some cores before a library is imported and counts them all."""
  os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
  serve(importlib.import_module(module).Library(pathlib.Path(job)))


if __name__ == "__main__":
  main(*sys.argv[1:])
