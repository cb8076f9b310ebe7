r"""The day after: full retraining against training on, on a log cut by time.

    python -m benchmarks.day_after --data=FOLDER --work=WORK --output=rows.jsonl

FOLDER (or `$CALREC_DAY_AFTER`) holds `interactions.csv.gz` (user_id, item_id,
timestamp in unix seconds) and `items.jsonl.gz`. The log of yesterday is its
first part by time, the log of today all of it. Three models are evaluated on
each user's last event of today: yesterday's, unchanged; the same, trained on
with what is new (`stages/continue.gin`); and one trained from scratch on all of
today's log. A row has their NDCG@10 and Recall@10, over all users and over
those who bought since yesterday, the paired difference of the last two, and the
CPU seconds of each training. Runs that WORK has already are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import pathlib
import resource
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import processor
from calrec_jax.evaluate.compare import RunSide, compare_runs
from calrec_jax.evaluate.results import read_results

METRICS = ("ndcg@10", "recall@10")
_RECOMMENDER, _BASELINE = "dense", "popularity"
_DOMAIN = "day"
_LOG, _ITEMS = "interactions.csv.gz", "items.jsonl.gz"
_RECIPE = """
include "models/{model}.gin"
include "mesh/cpu.gin"
include "data/log.gin"
include "runs/train.gin"
include "runs/eval.gin"

MIXTURE_OR_TASK_NAME = "day"
INTERACTIONS = "yesterday.csv.gz"
ITEMS = "{items}"
MODEL_DIR = "runs/yesterday"
TRAIN_STEPS = {steps}
Dataset.data_dir = "data"
# The log is a 5-core already, and a part of it by time is none.
Domain.min_count = 1
Domain.fields = (("Title", "title", 10),)
Prompt.prefix = ""
Prompt.first = "Next: "
Prompt.next = "Next: "
VOCABULARY_SIZE = 2048
BATCH_SIZE = {rows}
TASK_FEATURE_LENGTHS = {{"tokens": 256, "slots": 12}}
RANDOM_SEED = {seed}
LEARNING_RATE = 3e-3
DecoderConfig.user_tokens = 20
Objective.direction = "both"
Objective.temperature = 0.1
Objective.beta = 0.375
Validation.period = 10000
Validation.users = 256
CheckpointPolicy.period = 10000
Evaluation.recommenders = ("dense", "popularity")
Protocol.num_cases = 0
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark from the command line."""
  arguments = _parse(argv)
  row = measure(arguments)
  print(describe(row))
  if arguments.output:
    with arguments.output.open("a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")
  return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument(
    "--data", type=pathlib.Path, default=os.environ.get("CALREC_DAY_AFTER")
  )
  parser.add_argument("--work", type=pathlib.Path, required=True)
  parser.add_argument("--output", type=pathlib.Path)
  parser.add_argument("--model", default="micro", help="file of gin/models")
  parser.add_argument("--fraction", type=float, default=0.9)
  parser.add_argument("--steps", type=int, default=300)
  parser.add_argument("--more_steps", type=int, default=60)
  parser.add_argument("--more_rate", type=float, default=5e-4)
  parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
  parser.add_argument("--seed", type=int, default=0)
  arguments = parser.parse_args(argv)
  if arguments.data is None:
    parser.error("--data=FOLDER (or $CALREC_DAY_AFTER) is needed.")
  return arguments


def cut(data: pathlib.Path, fraction: float, work: pathlib.Path) -> list[str]:
  """Writes the log of yesterday, and returns who bought since then.

  Args:
    data: Folder of the whole log.
    fraction: Fraction of its events, by time, that are of yesterday.
    work: Folder of `yesterday.csv.gz`.
  """
  with gzip.open(data / _LOG, "rt", encoding="utf-8") as file:
    header, *rows = csv.reader(file)
  column = header.index("timestamp")
  times = np.array([int(row[column]) for row in rows])
  start = np.sort(times)[int(fraction * len(times))]
  with gzip.open(work / "yesterday.csv.gz", "wt", encoding="utf-8") as file:
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(header)
    lines.writerows(row for row in rows if int(row[column]) < start)
  user = header.index("user_id")
  return sorted({row[user] for row in rows if int(row[column]) >= start})


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
  """Trains and evaluates the three models; returns a row."""
  work, data = arguments.work.absolute(), arguments.data.absolute()
  work.mkdir(parents=True, exist_ok=True)
  active = cut(data, arguments.fraction, work)
  (work / "day.gin").write_text(
    _RECIPE.format(
      model=arguments.model,
      items=data / _ITEMS,
      steps=arguments.steps,
      rows=arguments.rows,
      seed=arguments.seed,
    )
  )
  today = f"--gin.INTERACTIONS={str(data / _LOG)!r}"
  recipe = ["train", "--gin_file=day.gin"]
  seconds = {
    "yesterday": _calrec(work, "train-yesterday", recipe),
    "retrained": _calrec(
      work,
      "train-retrained",
      [*recipe, today, "--gin.MODEL_DIR='runs/retrained'"],
    ),
    "continued": _calrec(
      work,
      "train-continued",
      [
        *recipe,
        "--gin_file=stages/continue.gin",
        today,
        "--gin.MODEL_DIR='runs/continued'",
        "--gin.INITIAL_CHECKPOINT_PATH='runs/yesterday'",
        f"--gin.TRAIN_STEPS={arguments.more_steps}",
        f"--gin.LEARNING_RATE={arguments.more_rate}",
        # Else yesterday's parameters stay where validation cannot tell.
        "--gin.Validation.at_start=False",
      ],
    ),
  }
  for run in seconds:
    output = f"--gin.EVAL_OUTPUT_DIR='compared/{run}'"
    _calrec(work, f"eval-{run}", ["eval", f"--run=runs/{run}", today, output])
  return {
    "benchmark": "day_after",
    "data": data.name,
    "fraction": arguments.fraction,
    "model": arguments.model,
    "steps": arguments.steps,
    "more_steps": arguments.more_steps,
    "more_rate": arguments.more_rate,
    "seed": arguments.seed,
    "rows": arguments.rows,
    "processor": processor.name(),
    **_results(work, seconds, active),
  }


def _calrec(work: pathlib.Path, name: str, arguments: list[str]) -> float:
  """CPU seconds of a verb, which is run once."""
  record = work / f"{name}.json"
  if not record.exists():
    before = _cpu_seconds()
    with (work / f"{name}.txt").open("w") as log:
      subprocess.run(
        [sys.executable, "-m", "calrec_jax", *arguments],
        cwd=work,
        stdout=log,
        stderr=subprocess.STDOUT,
        check=True,
      )
    record.write_text(json.dumps(_cpu_seconds() - before))
  return json.loads(record.read_text())


def _cpu_seconds() -> float:
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


def _results(
  work: pathlib.Path, seconds: dict[str, float], active: list[str]
) -> dict[str, Any]:
  folders = {run: work / "compared" / run / _DOMAIN for run in seconds}
  models = {}
  for run, folder in folders.items():
    results = read_results(folder)
    mask = np.isin(results.users["user_id"], active)
    models[run] = {
      "train_cpu_seconds": round(seconds[run], 1),
      "all_users": _means(results, np.ones(len(mask), bool)),
      "active_users": _means(results, mask),
    }
    users = {"all": len(mask), "active": int(mask.sum())}
    popularity = _means(results, mask, _BASELINE)
  sides = [
    RunSide((folders[run],), _RECOMMENDER) for run in ("continued", "retrained")
  ]
  [pair] = compare_runs(*sides)["pairs"]
  difference = {
    name: {key: pair["metrics"][name][key] for key in ("value", "low", "high")}
    for name in METRICS
  }
  return {
    "users": users,
    "models": models,
    "popularity_active": popularity,
    "continued_minus_retrained": difference,
  }


def _means(
  results: Any, mask: np.ndarray, name: str = _RECOMMENDER
) -> dict[str, float]:
  values = results.user_values(name, METRICS)[mask].mean(axis=0)
  return dict(zip(METRICS, values.round(4).tolist(), strict=True))


def describe(row: dict[str, Any]) -> str:
  """The row as lines for the terminal."""
  lines = [
    f"{row['data']}: {row['users']['all']:,} users, of whom "
    f"{row['users']['active']:,} bought since yesterday"
  ]
  for name, model in row["models"].items():
    lines.append(
      f"  {name:<10} {model['train_cpu_seconds']:>7.1f} CPU s  NDCG@10 "
      f"{model['all_users']['ndcg@10']:.4f}, of the active "
      f"{model['active_users']['ndcg@10']:.4f}"
    )
  return "\n".join(lines)


if __name__ == "__main__":
  sys.exit(main())
