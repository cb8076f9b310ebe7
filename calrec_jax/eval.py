"""`calrec eval`: measures recommenders on a split, beside the baselines."""

from __future__ import annotations

import argparse
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax

from calrec_jax import (
  checkpoints,
  config,
  parents,
  partitioning,
  recommenders,
  stages,
  telemetry,
)
from calrec_jax.data.cache import TokenCache
from calrec_jax.evaluate import (
  Results,
  evaluate,
  format_table,
  write_report,
  write_results,
)
from calrec_jax.evaluation import Evaluation
from calrec_jax.recommenders import TrainedModel
from calrec_jax.stages import Stage
from calrec_jax.validation import prompt_limits

_EPILOG = """\
Evaluates the last stage of the recipe, on the domain that it was trained on,
and writes metrics.json, per_user.parquet and report.html to
EVAL_OUTPUT_DIR/<domain> (by default inside the stage's folder).

  calrec eval --gin_file=recipes/quickstart.gin
  calrec eval --gin_file=recipes/quickstart.gin \\
    --gin.Evaluation.recommenders="('popularity', 'bm25_history')"
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the verb.

  Args:
    argv: the command line without the program's name.

  Returns:
    The exit status.
  """
  parser = argparse.ArgumentParser(
    prog="calrec eval",
    description=__doc__,
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--stage", metavar="NAME", help="evaluate this stage, not the last one"
  )
  arguments = config.parse_arguments(parser, argv)
  configuration = arguments.configuration
  configuration.apply()
  chain = stages.names()
  name = arguments.stage or chain[-1]
  if name not in chain:
    parser.error(f"--stage={name}: the recipe chains {', '.join(chain)}.")
  with configuration.stage(name), config.explained():
    if arguments.dry_run:
      print(config.text())
      return 0
    command = shlex.join(["calrec", "eval", *configuration.arguments()])
    recipe = ", ".join(configuration.files)
    run_evaluation(name, chain, {"command": command, "recipe": recipe})
  return 0


def run_evaluation(
  name: str, chain: tuple[str, ...], described: dict[str, str]
) -> dict[str, Results]:
  """Evaluates a stage as the applied configuration says.

  Args:
    name: of the stage.
    chain: all stages of the recipe.
    described: what was run, for the report.

  Returns:
    The results by domain, which are also on disk.
  """
  evaluation, stage = Evaluation(), Stage()
  folder = stages.folder(stage, name)
  mesh = partitioning.make_mesh(stage.mesh)
  results = {}
  with partitioning.activate(mesh, partitioning.logical_axis_rules()):
    caches = stages.open_caches(stage)
    model = None
    if recommenders.needs_model(evaluation.recommenders):
      model = load_stage_model(
        evaluation.checkpoint or folder, stage, caches, mesh
      )
    for cache in caches:
      results[cache.name] = _evaluate_domain(
        evaluation, stage, cache, model, mesh
      )
      output = pathlib.Path(evaluation.output_dir or folder / "eval")
      output = output.expanduser() / cache.name
      paths = write_results(output, results[cache.name])
      report = write_report(
        output / "report.html",
        results[cache.name],
        run=_run(name, chain, stage, cache, described),
        curves=_curves(stage, chain),
      )
      print(format_table(results[cache.name]))
      print(f"\nnumbers: {paths['metrics.json']}\nreport:  {report}")
  return results


def load_stage_model(
  path: str | pathlib.Path,
  stage: Stage,
  caches: list[TokenCache],
  mesh: jax.sharding.Mesh,
) -> TrainedModel:
  """The model of a checkpoint, checked against the stage's vocabulary."""
  checkpoint = checkpoints.find(path)
  parents.require_vocabulary(checkpoint, caches[0].vocabulary())
  return recommenders.load_model(
    checkpoint, stages.decoder_for(stage, caches), mesh
  )


def _evaluate_domain(
  evaluation: Evaluation,
  stage: Stage,
  cache: TokenCache,
  model: TrainedModel | None,
  mesh: jax.sharding.Mesh,
) -> Results:
  limits = prompt_limits(stage.feed)
  workshop = recommenders.Workshop(cache, model, limits, mesh)
  lineage: dict[str, Any] = {}
  if model is not None:
    lineage = {"checkpoint": str(model.checkpoint.name), **model.lineage}
  return evaluate(
    workshop.make(evaluation.recommenders),
    cache.histories(evaluation.split, evaluation.users, evaluation.seed),
    cache.catalogue,
    data=cache.card,
    checkpoint=lineage,
  )


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
    record = stages.lineage_of(stages.folder(stage, link))
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


if __name__ == "__main__":
  from calrec_jax.__main__ import main as calrec

  sys.exit(calrec(["eval", *sys.argv[1:]]))
