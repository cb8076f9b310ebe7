"""`calrec eval`: measures recommenders and baselines on a split."""

from __future__ import annotations

import argparse
import pathlib
import shlex
from collections.abc import Sequence

from calrec_jax import config
from calrec_jax.cli import of_run, verb
from calrec_jax.evaluate import (
  RunSide,
  Shard,
  compare_runs,
  format_comparison,
  write_comparison,
)
from calrec_jax.evaluate.job import run_evaluation
from calrec_jax.train import stages

_EPILOG = """\
Evaluates the last stage of the recipe, on the domain that it was trained on,
and writes metrics.json, per_user.parquet and report.html to
EVAL_OUTPUT_DIR/<domain> (by default inside the stage's folder).

  calrec eval --gin_file=recipes/quickstart.gin
  calrec eval --gin_file=recipes/quickstart.gin \\
    --gin.Evaluation.recommenders="('popularity', 'bm25_history')"

Recommendations are saved block by block (Job.block_users) in shards/ there. An
interrupted job resumes when it is rerun, with any number of processes; blocks
of other settings are not reused. Two processes, or two machines that share the
folder:

  calrec eval --gin_file=recipes/quickstart.gin --shard=0/2
  calrec eval --gin_file=recipes/quickstart.gin --shard=1/2

Two runs on the same users are compared user by user. Give the folder of each,
which holds metrics.json and per_user.parquet, and a recommender unless all are
to be compared:

  calrec eval --compare runs/a/eval/shop runs/b/eval/shop
  calrec eval --compare runs/a/eval/shop:generate runs/b/eval/shop:dense

For runs with several seeds, their means are compared:

  calrec eval --compare runs/a0/eval/shop,runs/a1/eval/shop runs/b/eval/shop

A run needs no gin file. Yesterday's model and today's on the log of today:

  calrec eval --run=runs/yesterday --gin.INTERACTIONS="'today.csv'" \\
    --gin.EVAL_OUTPUT_DIR="'compared/yesterday'"
  calrec eval --run=runs/today --gin.EVAL_OUTPUT_DIR="'compared/today'"
  calrec eval --compare compared/today/shop compared/yesterday/shop
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the verb on a command line and returns the exit status."""
  parser = verb.parser("eval", __doc__, _EPILOG)
  of_run.add_flag(parser)
  parser.add_argument(
    "--stage", metavar="NAME", help="evaluate this stage, not the last one"
  )
  parser.add_argument(
    "--shard",
    metavar="INDEX/COUNT",
    help="this process's shard, as 0/4; process 0 writes the results (default: "
    "all, or by CALREC_PROCESS_ID)",
  )
  parser.add_argument(
    "--compare",
    nargs=2,
    metavar=("A[,A...][:NAME]", "B[,B...][:NAME]"),
    help="compare runs instead of evaluating: A minus B",
  )
  parser.add_argument(
    "--output", metavar="FILE", help="where --compare writes compare.json"
  )
  arguments = config.parse_arguments(parser, argv)
  if arguments.output and not arguments.compare:
    parser.error("--output belongs to --compare; see EVAL_OUTPUT_DIR.")
  if arguments.compare:
    return _compare(arguments)
  of_run.open_run(arguments)
  shard = Shard.parse(arguments.shard) if arguments.shard else None
  configuration = arguments.configuration
  configuration.apply()
  name = stages.chosen(arguments.stage)[-1]
  with configuration.stage(name), config.explained():
    if arguments.dry_run:
      print(config.text())
      return 0
    described = {
      "command": shlex.join(["calrec", "eval", *configuration.arguments()]),
      "recipe": ", ".join(configuration.files),
    }
    run_evaluation(name, stages.chain_of(name), described, shard)
  return 0


def _compare(arguments: argparse.Namespace) -> int:
  a, b = arguments.compare
  if arguments.dry_run:
    print(f"compares {a} with {b}")
    return 0
  comparison = compare_runs(RunSide.parse(a), RunSide.parse(b))
  print(format_comparison(comparison))
  if arguments.output:
    path = pathlib.Path(arguments.output).expanduser()
    print(f"\nnumbers: {write_comparison(path, comparison)}")
  return 0
