r"""All recommenders side by side: speed, validity and quality.

    python -m benchmarks.recommend --gin_file=recipes/quickstart.gin \
      --users=512 --output=recommend.jsonl

Uses the exported checkpoint of the last stage of a recipe (or CHECKPOINT_PATH)
and a random sample of users. Every recommender runs in isolation: unlike in
`calrec eval` they share no generated texts, so times are independent. The first
call, which compiles, is not timed. Select with Evaluation.recommenders.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import train_step
from benchmarks.library_process import peak_bytes
from calrec_jax import config
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.records import History
from calrec_jax.evaluate import evaluate
from calrec_jax.evaluate.evaluation import Evaluation
from calrec_jax.evaluate.evaluator import Protocol
from calrec_jax.recommend import registry
from calrec_jax.recommend.candidates import EMPTY
from calrec_jax.recommend.prompts import prompt_limits
from calrec_jax.recommend.trained_model import open_model
from calrec_jax.runtime import partitioning
from calrec_jax.train import stages

_SHOWN = ("recall@1", "recall@10", "ndcg@10", "mrr", "coverage@10")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark from the command line."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.recommend",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--users", type=int, default=512)
  parser.add_argument("--output", help="file to append a line of JSON to")
  arguments = config.parse_arguments(parser, argv)
  configuration = arguments.configuration
  configuration.apply()
  name = stages.names()[-1]
  with configuration.stage(name), config.explained():
    if arguments.dry_run:
      print(config.text())
      return 0
    row = measure(name, arguments.users)
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
  titles = (
    "users/s", "users/CPU s", "peak GB", "valid", "distinct@10", *_SHOWN
  )  # fmt: skip
  lines = [
    f"{row['domain']}: {row['users']} users, {row['items']} items; "
    f"{row['machine']['device']}, {row['machine']['cores']} cores",
    "",
    f"{'':<18}" + "".join(f"{title:>13}" for title in titles),
  ]
  for name, found in row["recommenders"].items():
    valid = found["valid_share"]
    cells = [
      f"{found['users_per_second']:,.1f}",
      f"{found['users_per_cpu_second']:,.1f}",
      f"{found['peak_bytes'] / 1e9:.2f}",
      "" if valid is None else f"{valid:.1%}",
      f"{found['distinct']:,d}",
      *(f"{found['metrics'][key]:.4f}" for key in _SHOWN),
    ]
    lines.append(f"{name:<18}" + "".join(f"{cell:>13}" for cell in cells))
  return "\n".join(lines)


def measure(stage_name: str, users: int) -> dict[str, Any]:
  """Measures the recommenders of the applied configuration.

  Args:
    stage_name: Stage of the model.
    users: Maximum number of users.
  """
  evaluation, stage = Evaluation(), stages.Stage()
  mesh = partitioning.make_mesh(stage.mesh, jax.local_devices())
  with partitioning.activate(mesh, partitioning.logical_axis_rules()):
    caches = stages.open_caches(stage)
    cache, model = caches[0], None
    if registry.needs_model(evaluation.recommenders):
      model = open_model(
        evaluation.checkpoint or stages.folder(stage, stage_name),
        caches[0],
        stages.decoder_for(stage, caches),
        mesh,
      )
    histories = cache.histories(evaluation.split, users, evaluation.seed)
    found = {}
    for name in evaluation.recommenders:
      factory = registry.RecommenderFactory(
        cache, model, prompt_limits(stage.feed), mesh
      )
      found[name] = _measure_one(factory, name, histories, cache)
  return {
    "benchmark": "recommend",
    "schema": 1,
    "machine": train_step.machine(),
    "jax": jax.__version__,
    "domain": cache.name,
    "data": cache.fingerprint,
    "checkpoint": None if model is None else model.checkpoint.name,
    "items": len(cache.catalogue),
    "users": len(histories),
    "recommenders": found,
  }


def _measure_one(
  factory: registry.RecommenderFactory,
  name: str,
  histories: Sequence[History],
  cache: TokenCache,
) -> dict[str, Any]:
  """Measures a recommender: quality over all users, cost without the first.

  Building it and the first users include compilation.
  """
  [recommender] = factory.make([name])
  warm = min(len(histories) // 4, Protocol().batch_users)
  items = [history.items for history in histories]
  recommender.recommend(items[:warm], depth=Protocol().depth)
  wall, cpu = time.perf_counter(), time.process_time()
  listed = recommender.recommend(items[warm:], depth=Protocol().depth)
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  first = listed["not_last"].items[:, :10]
  results = evaluate(
    [recommender], histories, cache.catalogue, progress=False
  ).recommenders[name]
  return {
    "users_per_second": (len(items) - warm) / wall,
    "users_per_cpu_second": (len(items) - warm) / max(cpu, 1e-9),
    "peak_bytes": peak_bytes(),
    "valid_share": results["validity"].get("exact_samples"),
    "distinct": len(np.unique(first[first != EMPTY])),
    "description": results["description"],
    "metrics": {key: results["metrics"][key]["value"] for key in _SHOWN},
  }


if __name__ == "__main__":
  sys.exit(main())
