"""Memory, FLOPs and time of a training step in microbatches.

    python -m benchmarks.accumulation --root=FOLDER --output=accumulation.jsonl

FOLDER/NAME has `interactions.csv.gz` and `items.jsonl.gz` of the domain
(gin/data/folders.gin). The same step, state and batch are compiled for each
number of microbatches; all must have the whole batch's loss and gradient norm.
Memory is what the compiler reports for one step; temporaries exclude the
updated state. FLOPs are those of the program's matrix products, without skipped
chunks of logits.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import math
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from benchmarks import train_step as single_pass
from benchmarks.side_by_side import TOLERANCES
from calrec_jax import config
from calrec_jax.data.feed.batch import Batch
from calrec_jax.models.families import family_of
from calrec_jax.runtime import partitioning
from calrec_jax.train import stages, train_step
from calrec_jax.train import state as states

_FILES = ("mesh/cpu.gin", "data/folders.gin", "runs/train.gin")
_PACKAGES = ("calrec_jax", "jax", "jaxlib", "flax", "optax", "numpy")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark from the command line."""
  arguments = _parse(argv)
  configuration = single_pass.configure(arguments, (arguments.model, *_FILES))
  with configuration.stage(None), config.explained():
    if arguments.dry_run:
      print(config.text())
      return 0
    stage = stages.Stage()
    caches = stages.open_caches(stage)
    shape = stages.decoder_for(stage, caches)
    feed = stage.feed.open(caches)
    row = {
      "benchmark": "accumulation",
      "schema": 1,
      "machine": single_pass.machine(),
      "versions": {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
      },
      "data": {cache.name: cache.fingerprint for cache in caches},
      "model": arguments.model,
      "decoder": dataclasses.asdict(shape),
      "rows": stage.feed.rows,
      "row_tokens": stage.feed.row_tokens,
      "row_slots": stage.feed.row_slots,
      "repetitions": arguments.repetitions,
      "steps": measure(
        dataclasses.replace(stage, decoder=shape),
        feed.batch(0),
        arguments.microbatches,
        arguments.repetitions,
      ),
    }
  print(describe(row))
  if arguments.output:
    path = pathlib.Path(arguments.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")
    print(f"\nappended to {path}")
  return 0


def measure(
  stage: stages.Stage,
  batch: Batch,
  microbatches: Sequence[int],
  repetitions: int,
) -> list[dict[str, float]]:
  """Measures a step of a stage on one device, for each number of microbatches.

  Returns:
    For each number: `microbatches`, `temporary_bytes`, `vector_bytes` (of the
    pooled vectors, stored between the passes), `matmul_flops`, medians of
    `step_seconds` and `cpu_seconds`, `loss` and `gradient_norm`.

  Raises:
    ValueError: If losses or gradients differ.
  """
  decoder = family_of(stage.decoder).module(stage.decoder, [])
  mesh = partitioning.make_mesh(
    partitioning.MeshShape(), jax.local_devices()[:1]
  )
  rules = partitioning.logical_axis_rules()
  boxed = states.abstract_state(decoder, stage.optimizer, stage.tuning)
  shardings = partitioning.state_shardings(boxed, mesh, rules)
  rows = []
  with partitioning.activate(mesh, rules):
    state = states.create_state(
      decoder, stage.optimizer, shardings, stage.seed, stage.tuning
    )
    placed = jax.device_put(batch, partitioning.batch_sharding(mesh))
    for number in microbatches:
      step = train_step.make_train_step(
        decoder, stage.objective, stage.optimizer, stage.tuning, number
      )
      traced = jax.jit(step).trace(state, placed)
      program = traced.lower().compile()
      metrics = jax.device_get(program(state, placed)[1])
      walls, cpus = [], []
      for _ in range(repetitions):
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(program(state, placed))
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
      memory = program.memory_analysis()
      rows.append(
        {
          "microbatches": number,
          "temporary_bytes": memory.temp_size_in_bytes,
          "vector_bytes": 3 * 4 * batch.slot_items.size * stage.decoder.width,
          "matmul_flops": matmul_flops(
            traced.jaxpr.jaxpr,
            computed_chunks(batch, stage.objective.loss_chunk_tokens, number),
          ),
          "step_seconds": statistics.median(walls),
          "cpu_seconds": statistics.median(cpus),
          **{
            name: metrics[name].host_mean()
            for name in ("loss", "gradient_norm")
          },
        }
      )
  _refuse_differences(rows, TOLERANCES[stage.decoder.dtype])
  return rows


def computed_chunks(batch: Batch, chunk: int, microbatches: int) -> float:
  """Fraction of the chunks of logits that are computed; see `next_token`."""
  length = batch.tokens.shape[1]
  needed = (batch.loss_weights[:, :-1] > 0).sum(axis=1)
  chunk = min(chunk, length)
  computed = [
    -(-int(needed[part::microbatches].max()) // chunk)
    for part in range(microbatches)
  ]
  return statistics.mean(computed) / -(-length // chunk)


def matmul_flops(jaxpr: Any, taken: float) -> float:
  """FLOPs of a program's matrix products, over all iterations of its loops.

  Args:
    jaxpr: Jaxpr of the program.
    taken: Fraction in which the costlier branch of a `lax.cond` is taken.
  """
  total = 0.0
  for equation in jaxpr.eqns:
    name, given = equation.primitive.name, equation.params
    if name == "dot_general":
      (contracted, _), _ = given["dimension_numbers"]
      left = equation.invars[0].aval.shape
      inner = math.prod(left[axis] for axis in contracted)
      total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
    elif name == "cond":
      total += taken * max(
        matmul_flops(_plain(part), taken) for part in given["branches"]
      )
    elif name == "while":
      raise ValueError("FLOPs of a loop with dynamic trip count are unknown.")
    else:
      times = given["length"] if name == "scan" else 1
      inner_parts = (_plain(part) for part in given.values())
      total += times * sum(
        matmul_flops(part, taken)
        for part in inner_parts
        if hasattr(part, "eqns")
      )
  return total


def _plain(part: Any) -> Any:
  """The jaxpr of a closed one."""
  return getattr(part, "jaxpr", part)


def _refuse_differences(
  rows: Sequence[Mapping[str, float]], tolerance: float
) -> None:
  for row in rows:
    for name in ("loss", "gradient_norm"):
      if not abs(row[name] / rows[0][name] - 1) <= tolerance:
        raise ValueError(
          f"{name} is {row[name]} in {row['microbatches']} microbatches and "
          f"{rows[0][name]} in {rows[0]['microbatches']}, so their costs "
          "cannot be compared."
        )


def describe(row: Mapping[str, Any]) -> str:
  """Human-readable text of a row."""
  machine, first = row["machine"], row["steps"][0]
  lines = [
    f"{row['model']} on {', '.join(row['data'])}; {machine['device']}, "
    f"{machine['cores']} cores; {row['rows']} rows of {row['row_tokens']} "
    "tokens; pooled vectors of "
    f"{first['vector_bytes'] / 2**20:,.1f} MiB",
    "",
    f"{'microbatches':>12}{'temporaries':>16}{'':>8}{'matmul GFLOPs':>16}"
    f"{'':>8}{'CPU s':>8}{'loss':>12}",
  ]
  for step in row["steps"]:
    fraction, cost = (
      step[key] / first[key] for key in ("temporary_bytes", "matmul_flops")
    )
    lines.append(
      f"{step['microbatches']:>12}{step['temporary_bytes'] / 2**20:>12,.0f} MiB"
      f"{fraction:>8.2f}{step['matmul_flops'] / 1e9:>16,.0f}{cost:>8.2f}"
      f"{step['cpu_seconds']:>8.1f}{step['loss']:>12.6f}"
    )
  return "\n".join(lines)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.accumulation",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--root", required=True, help="parent of the domain's folder"
  )
  parser.add_argument("--domain", default="amazon2014_beauty")
  parser.add_argument("--model", default="models/tiny.gin", metavar="GIN_FILE")
  parser.add_argument("--rows", type=int, default=16, help="rows of the batch")
  parser.add_argument("--row_tokens", type=int, default=1024)
  parser.add_argument("--row_slots", type=int, default=48)
  parser.add_argument(
    "--microbatches", type=int, nargs="+", default=(1, 2, 4, 8)
  )
  parser.add_argument("--repetitions", type=int, default=3)
  parser.add_argument("--output", help="file to append a line of JSON to")
  return config.parse_arguments(parser, argv)


if __name__ == "__main__":
  sys.exit(main())
