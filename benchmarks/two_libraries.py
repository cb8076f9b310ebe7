"""The same job run by two libraries in turns."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import library_job, side_by_side
from benchmarks.library_process import LibraryProcess
from calrec_jax.checkpoint import conversion

MODULES = {
  "calrec_jax": "benchmarks.calrec_side",
  "transformers": "benchmarks.transformers_side",
}
PARTS = ("load", "language_model", "objective")


def compare(
  folder: pathlib.Path,
  parts: Sequence[str],
  *,
  repetitions: int,
  threads: int,
) -> dict[str, Any]:
  """Measures parts of a job.

  Args:
    folder: Folder of a written job.
    parts: Parts from `PARTS`.
    repetitions: Repetitions of every batch, or of loading.
    threads: Number of cores that each library may use.

  Returns:
    The figures of both libraries for each part.

  Raises:
    DisagreementError: If their results differ.
  """
  results = {}
  for part in parts:
    if part == "load":
      results[part] = _load(folder, repetitions, threads)
    else:
      results[part] = _train(folder, part, repetitions, threads)
  return results


def _train(
  folder: pathlib.Path, part: str, repetitions: int, threads: int
) -> dict[str, Any]:
  """Steps in turns, after a check that the losses on every batch agree."""
  job = library_job.read(folder)
  units = job.examples if part == "objective" else job.lm_tokens
  unit = "examples" if part == "objective" else "tokens"
  with (
    LibraryProcess(MODULES["calrec_jax"], folder, threads, job.device) as ours,
    LibraryProcess(
      MODULES["transformers"], folder, threads, job.device
    ) as theirs,
  ):
    processes = {"calrec_jax": ours, "transformers": theirs}
    for process in processes.values():
      process.call("load", source=job.source)
      process.call("begin", part=part)
    differences: dict[str, float] = {}
    first = dict.fromkeys(processes, 0.0)
    for batch in range(job.batches):
      found = {}
      for name, process in processes.items():
        found[name] = process.call("step", batch=batch, check=True)
        first[name] += found[name]["cpu_seconds"]
      _agree(found, job.precision, differences)
    timed: dict[str, list[tuple[dict[str, Any], int]]] = {
      name: [] for name in processes
    }
    for _ in range(repetitions):
      for batch in range(job.batches):
        for name, process in processes.items():
          answer = process.call("step", batch=batch)
          timed[name].append((answer, units[batch]))
  rows = {
    name: {
      "step_seconds": statistics.median(x["wall_seconds"] for x, _ in answers),
      f"cpu_seconds_per_{unit[:-1]}": statistics.median(
        x["cpu_seconds"] / size for x, size in answers
      ),
      f"{unit}_per_second": statistics.median(
        size / x["wall_seconds"] for x, size in answers
      ),
      f"{unit}_per_cpu_second": statistics.median(
        size / x["cpu_seconds"] for x, size in answers
      ),
      # For calrec_jax this is mostly compilation.
      "first_steps_cpu_seconds": first[name],
      "peak_bytes": answers[-1][0]["peak_bytes"],
    }
    for name, answers in timed.items()
  }
  return {
    **rows,
    unit: sum(units) / len(units),
    "largest_relative_difference": differences,
    "ratio": _ratios(rows, f"{unit}_per_cpu_second", f"{unit}_per_second"),
  }


def _agree(
  found: Mapping[str, Mapping[str, float]],
  precision: str,
  worst: dict[str, float],
) -> None:
  """Refuses different losses; `worst` records the largest differences."""
  ours, theirs = found["calrec_jax"], found["transformers"]
  names = [x for x in theirs if x.startswith("loss") or x == "gradient_norm"]
  tolerance = side_by_side.TOLERANCES[precision]
  for name in names:
    one, other = ours[name], theirs[name]
    difference = abs(one - other) / max(abs(one), abs(other), 1e-9)
    worst[name] = max(worst.get(name, 0.0), difference)
    if not difference <= tolerance:
      raise side_by_side.DisagreementError(
        f"{name} is {one:.6g} with calrec_jax and {other:.6g} with "
        f"Transformers, a relative difference of {difference:.2g}, more than "
        f"{tolerance}, so their speed cannot be compared."
      )


def _load(
  folder: pathlib.Path, repetitions: int, threads: int
) -> dict[str, Any]:
  """Loads in a separate process each time; imports are not counted."""
  job = library_job.read(folder)
  converted, checkpoint = _convert(folder, job.source)
  loads = {"huggingface": {"source": str(converted)}}
  if pathlib.Path(job.source).is_file():
    loads["gguf"] = {"source": job.source}
  results = {}
  for kind, arguments in loads.items():
    rows = {
      name: _loading(folder, job, module, repetitions, threads, arguments)
      for name, module in MODULES.items()
    }
    results[kind] = {**rows, "ratio": _ratios(rows, "loads_per_cpu_second")}
  results["checkpoint"] = {
    "calrec_jax": _loading(
      folder,
      job,
      MODULES["calrec_jax"],
      repetitions,
      threads,
      {"source": str(checkpoint), "checkpoint": True},
    )
  }
  return results


def _loading(
  folder: pathlib.Path,
  job: library_job.Job,
  module: str,
  repetitions: int,
  threads: int,
  arguments: Mapping[str, Any],
) -> dict[str, float]:
  answers = []
  for _ in range(repetitions):
    with LibraryProcess(module, folder, threads, job.device) as process:
      answers.append(process.call("load", cut=False, **arguments))
  cpu = statistics.median(x["cpu_seconds"] for x in answers)
  return {
    "wall_seconds": statistics.median(x["wall_seconds"] for x in answers),
    "cpu_seconds": cpu,
    "loads_per_cpu_second": 1 / cpu,
    "parameters": answers[0]["parameters"],
    "peak_bytes": max(x["peak_bytes"] for x in answers),
  }


def _convert(
  folder: pathlib.Path, source: str
) -> tuple[pathlib.Path, pathlib.Path]:
  """The model as a Hugging Face folder and as an Orbax checkpoint."""
  model = conversion.open_model(source)
  checkpoint = conversion.to_checkpoint(
    model, folder / "checkpoint", progress=False
  )
  if pathlib.Path(source).is_dir():
    return pathlib.Path(source), checkpoint
  converted = folder / "huggingface"
  if not converted.exists():
    conversion.to_huggingface(model, converted, progress=False)
  return converted, checkpoint


def _ratios(
  rows: Mapping[str, Mapping[str, float]], *names: str
) -> dict[str, float]:
  """Ratios of calrec_jax to Transformers; above 1, calrec_jax is faster."""
  return {
    name: rows["calrec_jax"][name] / rows["transformers"][name]
    for name in names
  }
