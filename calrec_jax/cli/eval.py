"""`calrec eval`: measures recommenders on a split, beside the baselines."""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

import jax

from calrec_jax import config
from calrec_jax.checkpoint import stage_folder
from calrec_jax.cli import verb
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.errors import InputError
from calrec_jax.evaluate import (
  Results,
  RunSide,
  ShardedEvaluation,
  Share,
  compare_runs,
  format_comparison,
  format_table,
  write_comparison,
  write_report,
  write_results,
)
from calrec_jax.evaluate.evaluation import Evaluation
from calrec_jax.recommend import provenance, registry
from calrec_jax.recommend.prompts import prompt_limits
from calrec_jax.recommend.trained_model import TrainedModel, open_model
from calrec_jax.runtime import compile_cache, distributed, partitioning
from calrec_jax.storage import lineage
from calrec_jax.train import stages, telemetry
from calrec_jax.train.stages import Stage

_EPILOG = """\
Evaluates the last stage of the recipe, on the domain that it was trained on,
and writes metrics.json, per_user.parquet and report.html to
EVAL_OUTPUT_DIR/<domain> (by default inside the stage's folder).

  calrec eval --gin_file=recipes/quickstart.gin
  calrec eval --gin_file=recipes/quickstart.gin \\
    --gin.Evaluation.recommenders="('popularity', 'bm25_history')"

Recommendations are saved block by block (Job.block_users) in shards/ there. An
interrupted job resumes when it is rerun, with any number of processes; blocks
made under other settings are not reused. Two processes, or two machines that
share the folder:

  calrec eval --gin_file=recipes/quickstart.gin --shard=0/2
  calrec eval --gin_file=recipes/quickstart.gin --shard=1/2

Two runs on the same users are compared user by user. Give the folder of
each, with metrics.json and per_user.parquet, and a recommender unless all are
compared:

  calrec eval --compare runs/a/eval/shop runs/b/eval/shop
  calrec eval --compare runs/a/eval/shop:generate runs/b/eval/shop:dense

For runs with several seeds, their means are compared:

  calrec eval --compare runs/a0/eval/shop,runs/a1/eval/shop runs/b/eval/shop
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the verb.

  Args:
    argv: the command line without the program's name.

  Returns:
    The exit status.
  """
  parser = verb.parser("eval", __doc__, _EPILOG)
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
    a, b = arguments.compare
    return _compare(a, b, arguments.output, arguments.dry_run)
  share = Share.parse(arguments.shard) if arguments.shard else None
  configuration = arguments.configuration
  configuration.apply()
  name = stages.chosen(arguments.stage)[-1]
  with configuration.stage(name), config.explained():
    if arguments.dry_run:
      print(config.text())
      return 0
    command = shlex.join(["calrec", "eval", *configuration.arguments()])
    recipe = ", ".join(configuration.files)
    described = {"command": command, "recipe": recipe}
    run_evaluation(name, stages.names(), described, share)
  return 0


def _compare(a: str, b: str, output: str | None, dry_run: bool) -> int:
  if dry_run:
    print(f"compares {a} with {b}")
    return 0
  comparison = compare_runs(RunSide.parse(a), RunSide.parse(b))
  print(format_comparison(comparison))
  if output:
    path = pathlib.Path(output).expanduser()
    print(f"\nnumbers: {write_comparison(path, comparison)}")
  return 0


def run_evaluation(
  name: str,
  chain: tuple[str, ...],
  described: dict[str, str],
  share: Share | None = None,
) -> dict[str, Results]:
  """Evaluates a stage as the applied configuration says.

  Args:
    name: of the stage.
    chain: all stages of the recipe.
    described: what was run, for the report.
    share: which of how many processes this is; by default as the environment
      counts them.

  Returns:
    The results by domain, which are also on disk; none where another process
    writes them.
  """
  evaluation, stage = Evaluation(), Stage()
  folder = stages.folder(stage, name)
  compile_cache.keep(pathlib.Path(stage.dataset.folder))
  share = share or Share(*distributed.processes())
  # Processes share nothing but files, so each has a mesh of its own devices.
  mesh = partitioning.make_mesh(stage.mesh, jax.local_devices())
  results = {}
  with partitioning.activate(mesh, partitioning.logical_axis_rules()):
    caches = stages.open_caches(stage)
    model = None
    if registry.needs_model(evaluation.recommenders):
      model = open_model(
        evaluation.checkpoint or folder,
        caches[0],
        stages.decoder_for(stage, caches),
        mesh,
      )
    _refuse_known_targets(evaluation, stage, model)
    for cache in caches:
      output = pathlib.Path(evaluation.output_dir or folder / "eval")
      output = output.expanduser() / cache.name
      found = _evaluate_domain(
        evaluation, stage, cache, model, mesh, output, share
      )
      if found is None:
        continue
      results[cache.name] = found
      paths = write_results(output, found)
      report = write_report(
        output / "report.html",
        found,
        run=_run(name, chain, stage, cache, described),
        curves=_curves(stage, chain),
      )
      print(format_table(found))
      print(f"\nnumbers: {paths['metrics.json']}\nreport:  {report}")
  return results


def _refuse_known_targets(
  evaluation: Evaluation, stage: Stage, model: TrainedModel | None
) -> None:
  trained_on = stage.feed.split
  if model is not None and trained_on == "train":
    trained_on = lineage.trained_split(model.lineage)
  if evaluation.split == trained_on:
    raise InputError(
      f"Evaluation.split = {evaluation.split!r}, but its targets were trained "
      f"on (Feed.split = {trained_on!r}). Evaluate on 'test'."
    )


def _evaluate_domain(
  evaluation: Evaluation,
  stage: Stage,
  cache: TokenCache,
  model: TrainedModel | None,
  mesh: jax.sharding.Mesh,
  output: pathlib.Path,
  share: Share,
) -> Results | None:
  """Does this process's share; the results where it is the one to write."""
  limits = prompt_limits(stage.feed)
  # Whoever counts knows as much as the models were trained on.
  counted = stage.feed.documents
  workshop = registry.Workshop(
    cache,
    model,
    limits,
    mesh,
    counted=counted,
    share=share.index,
    shares=share.count,
  )
  drawn = {
    "split": evaluation.split,
    "drawn_users": evaluation.users,
    "seed": evaluation.seed,
    "counted": counted,
  }
  job = ShardedEvaluation(
    output,
    workshop.make(evaluation.recommenders),
    cache.histories(evaluation.split, evaluation.users, evaluation.seed),
    cache.catalogue,
    {
      name: {
        **drawn,
        **provenance.of_answers(
          cache,
          model if registry.needs_model([name]) else None,
          limits,
          mesh,
        ),
      }
      for name in evaluation.recommenders
    },
  )
  for line in job.state():
    print(line)
  job.work(share)
  if share.index:
    print(
      f"{cache.name}: every block is done; process 0 of {share.count} writes "
      "the results. If it has ended, run it again: it has nothing left to "
      "answer."
    )
    return None
  origin: dict[str, Any] = {}
  if model is not None:
    origin = {"checkpoint": str(model.checkpoint.name), **model.lineage}
  results = job.results(
    data=cache.card, checkpoint=origin, split=evaluation.split
  )
  job.tidy()
  return results


def _curves(stage: Stage, chain: tuple[str, ...]) -> dict[str, list[dict]]:
  curves = {}
  for name in chain:
    path = stages.folder(stage, name) / telemetry.METRICS_FILE
    rows = telemetry.read_rows(path)
    if rows:
      curves[name] = rows
  return curves


def _run(
  name: str,
  chain: tuple[str, ...],
  stage: Stage,
  cache: TokenCache,
  described: dict[str, str],
) -> dict[str, Any]:
  """What the report says was run."""
  shown = []
  for link in chain[: chain.index(name) + 1]:
    record = stage_folder.lineage_of(stages.folder(stage, link))
    if record is not None:
      shown.append(
        {
          "name": link,
          "steps": record["training"]["steps"],
          "task": record["training"]["task"],
          "domains": ", ".join(record["data"]),
          "parent": (record["parent"] or {}).get("checkpoint", "–"),
        }
      )
  return {
    "title": f"{cache.name}: next-item recommendation",
    "stages": shown,
    "data_hash": cache.fingerprint,
    **described,
  }
