"""One optimizer step: packed single pass against plain two-pass training.

    python -m benchmarks.train_step --root=FOLDER --output=train_step.jsonl

FOLDER/NAME has `interactions.csv.gz` and `items.jsonl.gz` of the domain
(gin/data/folders.gin). Packed rows come from the feed; the plain form
(`plain_two_pass`) gets the same targets and histories, one per row, padded to
the longest of the batch, with the same model, parameters and optimizer.

First both forms must agree on the losses and the gradient norm. Then they are
timed in turns, and medians are reported. The plain form already pads to the
longest of the batch only, computes logits at target positions only, and skips
attention above the diagonal; real code often does none of this.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from benchmarks import processor, side_by_side
from calrec_jax import config
from calrec_jax.train import stages

_FILES = ("mesh/cpu.gin", "data/folders.gin", "runs/train.gin")
_PACKAGES = ("calrec_jax", "jax", "jaxlib", "flax", "optax", "numpy")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark from the command line."""
  arguments = _parse(argv)
  configuration = configure(arguments, (arguments.model, *_FILES))
  with configuration.stage(None), config.explained():
    if arguments.dry_run:
      print(config.text())
      return 0
    stage = stages.Stage()
    caches = stages.open_caches(stage)
    shape = stage.decoder.for_vocabulary(stages.vocabulary_size(caches))
    feed = stage.feed.open(caches)
    bench = side_by_side.Bench(
      shape,
      stage.objective,
      stage.optimizer,
      [feed.batch(step) for step in range(arguments.batches)],
    )
    row = side_by_side.compare(bench, arguments.repetitions)
    row = {
      "benchmark": "train_step",
      "schema": 1,
      "machine": machine(),
      "versions": {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
      },
      "data": {cache.name: cache.fingerprint for cache in caches},
      "model": arguments.model,
      "decoder": dataclasses.asdict(shape),
      "row_tokens": stage.feed.row_tokens,
      "row_slots": stage.feed.row_slots,
      "rows": stage.feed.rows,
      "epoch": {
        "fill": feed.stats.fill,
        "targets_per_row": feed.stats.targets_per_row,
        "steps": feed.stats.steps_per_epoch,
      },
      **row,
    }
  print(describe(row))
  if arguments.output:
    path = pathlib.Path(arguments.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")
    print(f"\nappended to {path}")
  return 0


def describe(row: Mapping[str, Any]) -> str:
  """Human-readable text of a row."""
  machine, ratio = row["machine"], row["packed_over_plain"]
  lines = [
    f"{row['model']} on {', '.join(row['data'])}; {machine['device']}, "
    f"{machine['cores']} cores; packed rows of {row['row_tokens']} tokens, "
    f"plain rows of {_range(row['plain_row_tokens'])}; batches of "
    f"{_range(row['examples'])} examples",
    "agreement: largest relative difference "
    f"{max(row['largest_relative_difference'].values()):.1e}",
    "",
    f"{'':<34}{'packed':>12}{'plain':>12}",
  ]
  for label, key, form in (
    ("examples/s", "examples_per_second", ",.1f"),
    ("tokens/s, padding included", "tokens_per_second", ",.0f"),
    ("tokens/s, padding left out", "real_tokens_per_second", ",.0f"),
    ("tokens per example", "tokens_per_example", ",.0f"),
    ("  of them padding", "padding", ".1%"),
    ("CPU seconds per example", "cpu_seconds_per_example", ".4f"),
    ("matmul MFLOPs per example", "megaflops_per_example", ",.0f"),
    ("matmul GFLOP/s", "gigaflops_per_second", ",.1f"),
  ):
    cells = []
    for name in ("packed", "plain"):
      values = dict(row[name])
      values["megaflops_per_example"] = values["flops_per_example"] / 1e6
      values["gigaflops_per_second"] = values["flops_per_second"] / 1e9
      cells.append(f"{format(values[key], form):>12}")
    lines.append(f"{label:<34}{''.join(cells)}")
  lines += [
    "",
    f"packed over plain: {ratio['examples_per_second']:.1f} times the "
    f"examples/s, 1/{1 / ratio['cpu_seconds_per_example']:.1f} of the CPU "
    f"time, 1/{1 / ratio['flops_per_example']:.1f} of the FLOPs, "
    f"1/{1 / ratio['tokens_per_example']:.1f} of the tokens",
    f"FLOPs of the plain form: {_fractions(row['share_of_plain_flops'])}",
    f"FLOPs of the packed form: {_fractions(row['share_of_packed_flops'])}",
    f"measured fractions of time: {_fractions(row['share_of_time'])}",
  ]
  return "\n".join(lines)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.train_step",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--root", required=True, help="parent of the domain's folder"
  )
  parser.add_argument("--domain", default="amazon2014_beauty")
  parser.add_argument("--model", default="models/tiny.gin", metavar="GIN_FILE")
  parser.add_argument(
    "--rows", type=int, default=4, help="rows of a packed batch"
  )
  parser.add_argument("--row_tokens", type=int, default=1024)
  parser.add_argument("--row_slots", type=int, default=48)
  parser.add_argument("--batches", type=int, default=3)
  parser.add_argument("--repetitions", type=int, default=5)
  parser.add_argument("--output", help="file to append a line of JSON to")
  return config.parse_arguments(parser, argv)


def configure(
  arguments: argparse.Namespace,
  files: Sequence[str],
  extra: Mapping[str, Any] | None = None,
) -> config.Configuration:
  """Configures a stage on the domain of the command line.

  Args:
    arguments: Arguments `root`, `domain`, `rows`, `row_tokens`, `row_slots` and
      the user's `configuration`.
    files: Gin files, before the user's.
    extra: Extra bindings.
  """
  given = arguments.configuration
  lengths = {"tokens": arguments.row_tokens, "slots": arguments.row_slots}
  bindings = {
    "ROOT": arguments.root,
    "DOMAINS": (arguments.domain,),
    # Only the order of the events matters here.
    "POSITIONS": (arguments.domain,),
    "MIXTURE_OR_TASK_NAME": arguments.domain,
    "MODEL_DIR": "unused",
    "TRAIN_STEPS": 1000,
    "BATCH_SIZE": arguments.rows,
    "TASK_FEATURE_LENGTHS": lengths,
    **(extra or {}),
  }
  return dataclasses.replace(
    given,
    files=(*files, *given.files),
    bindings=(
      *(f"{name} = {value!r}" for name, value in bindings.items()),
      *given.bindings,
    ),
  )


def machine() -> dict[str, Any]:
  """The machine of the measurement."""
  return {
    "device": jax.devices()[0].device_kind,
    "platform": jax.default_backend(),
    "cores": len(os.sched_getaffinity(0)),
    "processor": processor.name(),
    "system": platform.platform(),
  }


def _fractions(fractions: Mapping[str, float]) -> str:
  return ", ".join(
    f"{name.replace('_', ' ')} {fraction:.0%}"
    for name, fraction in fractions.items()
  )


def _range(values: Iterable[int]) -> str:
  low, high = min(values), max(values)
  return str(low) if low == high else f"{low} to {high}"


if __name__ == "__main__":
  sys.exit(main())
