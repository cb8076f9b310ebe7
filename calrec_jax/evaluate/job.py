"""The evaluation job: recommenders on a split, by any number of processes."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import jax

from calrec_jax.checkpoint import stage_folder
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.errors import InputError
from calrec_jax.evaluate.evaluation import Evaluation
from calrec_jax.evaluate.report.page import write_report
from calrec_jax.evaluate.results import Results, write_results
from calrec_jax.evaluate.sharded import ShardedEvaluation
from calrec_jax.evaluate.table import format_table
from calrec_jax.recommend import provenance, registry
from calrec_jax.recommend.prompts import prompt_limits
from calrec_jax.recommend.trained_model import TrainedModel, open_model
from calrec_jax.runtime import compile_cache, distributed, partitioning
from calrec_jax.storage import lineage
from calrec_jax.storage.blocks import Shard
from calrec_jax.train import stages, telemetry
from calrec_jax.train.stages import Stage


def run_evaluation(
  name: str,
  chain: tuple[str, ...],
  described: dict[str, str],
  shard: Shard | None = None,
) -> dict[str, Results]:
  """Evaluates a stage as the applied configuration says.

  Args:
    name: Name of the stage.
    chain: Names of all stages of the recipe.
    described: What was run, for the report.
    shard: This process among those that do the job; by default as the
      environment counts them.

  Returns:
    The results by domain, which are also on disk; none where another process
    writes them.
  """
  evaluation, stage = Evaluation(), Stage()

  def read_rows(link: str) -> list[dict[str, Any]]:
    path = stages.folder(stage, link) / telemetry.METRICS_FILE
    return telemetry.read_rows(path)

  folder = stages.folder(stage, name)
  stage = stages.with_vocabulary_of(stage, evaluation.checkpoint or folder)
  compile_cache.keep(pathlib.Path(stage.dataset.folder))
  shard = shard or Shard(*distributed.processes())
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
      _warn_of_later_log(cache, model)
      output = pathlib.Path(evaluation.output_dir or folder / "eval")
      output = output.expanduser() / cache.name
      found = _evaluate_domain(
        evaluation, stage, cache, model, mesh, output, shard
      )
      if found is None:
        continue
      results[cache.name] = found
      paths = write_results(output, found)
      report = write_report(
        output / "report.html",
        found,
        run=_run(name, chain, stage, cache, described),
        curves={link: rows for link in chain if (rows := read_rows(link))},
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


def _warn_of_later_log(cache: TokenCache, model: TrainedModel | None) -> None:
  """Says that a model was trained on events after those of the log."""
  card = {} if model is None else model.lineage.get("cards", {}).get(cache.name)
  last, trained = (
    (each or {}).get("period", {}).get("last") for each in (cache.card, card)
  )
  if last and trained and trained > last:  # Both in UTC, as ISO 8601.
    print(
      f"{cache.name}: the model was trained on events up to {trained}, but "
      f"this log ends at {last}: its targets may have been trained on.",
      file=sys.stderr,
    )


def _evaluate_domain(
  evaluation: Evaluation,
  stage: Stage,
  cache: TokenCache,
  model: TrainedModel | None,
  mesh: jax.sharding.Mesh,
  output: pathlib.Path,
  shard: Shard,
) -> Results | None:
  """Does this process's shard; returns results where it writes them."""
  limits = prompt_limits(stage.feed)
  counted = stage.feed.documents  # What the models were trained on.
  factory = registry.RecommenderFactory(
    cache, model, limits, mesh, counted=counted, shard=shard
  )
  sample = {
    "split": evaluation.split,
    "drawn_users": evaluation.users,
    "seed": evaluation.seed,
    "counted": counted,
  }
  made_by = {}
  for name in evaluation.recommenders:
    used = model if registry.needs_model([name]) else None
    origin = provenance.of_answers(cache, used, limits, mesh)
    made_by[name] = {**sample, **origin}
  job = ShardedEvaluation(
    output,
    factory.make(evaluation.recommenders),
    cache.histories(evaluation.split, evaluation.users, evaluation.seed),
    cache.catalogue,
    made_by,
  )
  for line in job.state():
    print(line)
  job.work(shard)
  if shard.index:
    print(
      f"{cache.name}: every block is done; process 0 of {shard.count} writes "
      "the results. If it has ended, run it again: it has nothing left to "
      "answer."
    )
    return None
  trained: dict[str, Any] = {}
  if model is not None:
    trained = {"checkpoint": model.checkpoint.name, **model.lineage}
  results = job.results(
    data=cache.card, checkpoint=trained, split=evaluation.split
  )
  job.tidy()
  return results


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
