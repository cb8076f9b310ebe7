r"""calrec_jax compared with Transformers and PyTorch on the same machine.

    python -m benchmarks.against_transformers --root=FOLDER \
      --source=smollm2-135m-instruct --output=against_transformers.jsonl

Three parts, on the same weights, tokens, batch and precision:

- load: from a file to usable parameters;
- language_model: tokens/s of full fine-tuning with AdamW, on rows without
  padding;
- objective: examples/s of CALRec's three losses: packed rows and one pass here,
  one target per row and two passes there (`transformers_side`).

Each library runs in its own process, in turns, and their losses and gradient
norms must agree before anything is timed. FOLDER has the domain's logs as for
`train_step`. The vocabulary is pruned to them in both libraries, unless
--full_vocabulary is given. Needs PyTorch and Transformers:
pip install 'calrec_jax[reference]'.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import library_job, train_step, two_libraries
from calrec_jax import config
from calrec_jax.models.pretrained import sources
from calrec_jax.train import stages

FILES = (
  "mesh/cpu.gin",
  "data/folders.gin",
  "data/pretrained.gin",
  "runs/train.gin",
)
_PACKAGES = (
  "calrec_jax", "jax", "jaxlib", "flax", "optax", "numpy", "torch",
  "transformers",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark from the command line."""
  arguments = _parse(argv)
  bindings = {
    "VOCABULARY_SOURCE": arguments.source,
    "PRUNE_VOCABULARY": not arguments.full_vocabulary,
  }
  configuration = train_step.configure(arguments, FILES, bindings)
  with (
    configuration.stage(None),
    config.explained(),
    tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch,
  ):
    if arguments.dry_run:
      print(config.text())
      return 0
    folder = pathlib.Path(scratch)
    row = _prepare(folder, arguments)
    row |= two_libraries.compare(
      folder,
      arguments.parts,
      repetitions=arguments.repetitions,
      threads=arguments.threads,
    )
  if arguments.output:
    path = pathlib.Path(arguments.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")
    print(f"appended to {path}\n")
  print(describe(row))
  return 0


def describe(row: Mapping[str, Any]) -> str:
  """Human-readable text of a row."""
  job = row["job"]
  lines = [
    f"{row['source']}, vocabulary of {job['decoder']['vocab_size']:,}; "
    f"{job['precision']} on {job['device']}, {row['threads']} threads",
    "",
    f"{'':<36}{'calrec_jax':>12}{'transformers':>14}{'ratio':>8}",
  ]
  for kind, rows in row.get("load", {}).items():
    lines += _lines(
      f"load {kind}: ",
      rows,
      (("CPU seconds", "cpu_seconds", ".1f"),
       ("seconds", "wall_seconds", ".1f"),
       ("peak GB", "peak_bytes", ".1f")),
    )  # fmt: skip
  for part, unit in (("language_model", "token"), ("objective", "example")):
    if part not in row:
      continue
    lines += _lines(
      f"{part.replace('_', ' ')}: ",
      row[part],
      ((f"{unit}s/CPU second", f"{unit}s_per_cpu_second", ",.2f"),
       (f"{unit}s/s", f"{unit}s_per_second", ",.2f"),
       ("first steps, CPU seconds", "first_steps_cpu_seconds", ".0f"),
       ("peak GB", "peak_bytes", ".1f")),
    )  # fmt: skip
    worst = max(row[part]["largest_relative_difference"].values())
    lines.append(f"  largest relative difference {worst:.1e}")
  return "\n".join(lines)


def _lines(
  title: str,
  rows: Mapping[str, Any],
  shown: Sequence[tuple[str, str, str]],
) -> list[str]:
  lines = []
  for label, key, form in shown:
    scale = 1e9 if key == "peak_bytes" else 1
    values = [
      rows[name][key] / scale if name in rows else None
      for name in two_libraries.MODULES
    ]
    ours, theirs = ("–" if x is None else format(x, form) for x in values)
    ratio = f"{values[0] / values[1]:.2f}" if None not in values else ""
    lines.append(f"{title + label:<36}{ours:>12}{theirs:>14}{ratio:>8}")
  return lines


def _prepare(
  folder: pathlib.Path, arguments: argparse.Namespace
) -> dict[str, Any]:
  """Writes the job; returns the settings recorded in the row."""
  stage = stages.Stage()
  caches = stages.open_caches(stage)
  vocabulary = caches[0].vocabulary()
  source = sources.open_source(arguments.source)
  decoder = dataclasses.replace(
    stage.decoder,
    **source.decoder_fields(),
    vocab_size=vocabulary.size,
    dtype=arguments.precision,
  )
  feed = stage.feed.open(caches)
  job = library_job.write(
    folder,
    [feed.batch(step) for step in range(arguments.batches)],
    row_map(vocabulary, source),
    source=str(source.path),
    decoder=dataclasses.asdict(decoder),
    objective=dataclasses.asdict(stage.objective),
    learning_rate=arguments.learning_rate,
    precision=arguments.precision,
    device=arguments.device,
  )
  return {
    "benchmark": "against_transformers",
    "schema": 1,
    "machine": train_step.machine(),
    "versions": versions(),
    "data": {cache.name: cache.fingerprint for cache in caches},
    "rows": arguments.rows,
    "row_tokens": arguments.row_tokens,
    "threads": arguments.threads,
    "repetitions": arguments.repetitions,
    "source": arguments.source,
    "job": dataclasses.asdict(job),
  }


def versions() -> dict[str, str]:
  """Versions of Python and of both libraries' dependencies."""
  return {
    "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in _PACKAGES},
  }


def row_map(vocabulary: Any, source: sources.Source) -> np.ndarray | None:
  """Used rows of the model's embedding, which may exceed the vocabulary."""
  if vocabulary.row_map is not None:
    return vocabulary.row_map
  if vocabulary.size == source.num_tokens:
    return None
  return np.arange(vocabulary.size)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.against_transformers",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--root", required=True, help="parent of the domain's folder"
  )
  parser.add_argument("--domain", default="amazon2014_beauty")
  parser.add_argument(
    "--source",
    default="smollm2-135m-instruct",
    help="packaged model, GGUF file or Hugging Face folder",
  )
  parser.add_argument("--full_vocabulary", action="store_true")
  parser.add_argument(
    "--parts",
    type=lambda text: text.split(","),
    default=list(two_libraries.PARTS),
    help="comma-separated parts of load,language_model,objective",
  )
  parser.add_argument(
    "--precision", choices=["float32", "bfloat16"], default="float32"
  )
  parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--learning_rate", type=float, default=1e-5)
  parser.add_argument(
    "--rows", type=int, default=2, help="rows of a packed batch"
  )
  parser.add_argument("--row_tokens", type=int, default=1024)
  parser.add_argument("--row_slots", type=int, default=24)
  parser.add_argument("--batches", type=int, default=1)
  parser.add_argument("--repetitions", type=int, default=3)
  parser.add_argument("--scratch", help="folder of exchanged files")
  parser.add_argument("--output", help="file to append a line of JSON to")
  arguments = config.parse_arguments(parser, argv)
  unknown = set(arguments.parts) - set(two_libraries.PARTS)
  if unknown:
    parser.error(f"--parts: unknown {', '.join(sorted(unknown))}")
  return arguments


if __name__ == "__main__":
  sys.exit(main())
