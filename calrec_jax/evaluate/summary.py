"""From ranks to the numbers of `metrics.json`, all of which are made here."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calrec_jax.data.records import Catalogue, History
from calrec_jax.evaluate.results import Results
from calrec_jax.evaluate.runs import COVERAGE_CUTOFF, Run
from calrec_jax.evaluate.slices import Slicing
from calrec_jax.metrics import ranking_metrics
from calrec_jax.metrics.intervals import Bootstrap, Interval


def protocol(
  settings: Any,
  histories: Sequence[History],
  catalogue: Catalogue,
  excluded: Mapping[str, np.ndarray],
  names: Sequence[str],
) -> dict[str, Any]:
  """The rules under which the numbers hold, as stored in `metrics.json`."""
  return {
    "ranking": "full",
    "hit": "item id",
    "ties": "expected rank",
    "users": len(histories),
    "items": len(catalogue),
    "items_with_text_twins": int(
      np.sum(
        np.bincount(catalogue.text_rows, minlength=1)[catalogue.text_rows] > 1
      )
    ),
    "candidates": settings.rule,
    "candidate_rules": list(settings.rules),
    "excluded_targets": {
      rule: int(flags.sum()) for rule, flags in excluded.items()
    },
    "metrics": list(settings.metrics),
    "depth": settings.depth,
    "reference": reference_of(settings, names),
    "compared": settings.compared,
    "intervals": {
      "method": "percentile bootstrap over users",
      **dataclasses.asdict(settings.bootstrap),
    },
  }


def reference_of(settings: Any, names: Sequence[str]) -> str:
  """The recommender that the others are compared with."""
  if settings.reference:
    return settings.reference
  return "popularity" if "popularity" in names else names[0]


def recommenders(
  runs: Sequence[Run],
  slicings: Mapping[str, Slicing],
  settings: Any,
  *,
  num_items: int,
) -> dict[str, dict[str, Any]]:
  """The numbers of every recommender, by name."""
  reference = reference_of(settings, [run.name for run in runs])
  values = {run.name: _values(run, settings.rule, settings) for run in runs}

  def difference(name: str) -> dict[str, Any]:
    paired = settings.bootstrap.differences(values[name], values[reference])
    return {"to": reference, "metrics": named(settings.metrics, paired)}

  return {
    run.name: _with_details(
      run,
      {
        "description": run.description,
        "metrics": _metrics(run, settings.rule, settings, num_items),
        "difference": difference(run.name),
        "candidates": {
          rule: {"metrics": _metrics(run, rule, settings, num_items)}
          for rule in settings.rules
        },
        "slices": _slices(values[run.name], slicings, settings),
        "ties": _ties(run, settings),
        **_curve(run, settings),
        "validity": run.mean_validity(),
        "cost": run.cost(),
      },
    )
    for run in runs
  }


def compare(results: Results, name: str, reference: str) -> dict[str, Any]:
  """The paired difference of two recommenders in the compared metric.

  Args:
    results: Evaluation, fresh or read back.
    name: Name of a recommender.
    reference: Name of the recommender it is compared with.

  Returns:
    Value, low and high of the mean over users of `name - reference`.
  """
  metric = results.protocol["compared"]
  values = [results.user_values(key, (metric,)) for key in (name, reference)]
  differences = bootstrap_of(results).differences(*values)
  return named((metric,), differences)[metric]


def bootstrap_of(results: Results) -> Bootstrap:
  """The bootstrap that made the intervals of an evaluation."""
  stored = results.protocol["intervals"]
  keys = ("confidence", "resamples", "seed")
  return Bootstrap(**{key: stored[key] for key in keys})


def _with_details(run: Run, numbers: dict[str, Any]) -> dict[str, Any]:
  """The numbers of a recommender, and what it says of itself."""
  if taken := sorted(run.details.keys() & numbers.keys()):
    raise ValueError(
      f"recommender {run.name!r}: details() gives {taken}, which the "
      "evaluation itself fills; name them otherwise"
    )
  return {**numbers, **run.details}


def _values(run: Run, rule: str, settings: Any) -> np.ndarray:
  """Every metric of every user, float64[U, M]."""
  return ranking_metrics.user_values(
    tuple(settings.metrics), run.ranks[rule], run.text_ranks[rule]
  )


def _metrics(
  run: Run, rule: str, settings: Any, num_items: int
) -> dict[str, Any]:
  means = settings.bootstrap.means(_values(run, rule, settings))
  covered = ranking_metrics.coverage(run.seen(rule, num_items))
  return {
    **named(settings.metrics, means),
    # Not a mean over users: a resample of them has no interval to offer.
    f"coverage@{COVERAGE_CUTOFF}": dict(value=covered, low=None, high=None),
  }


def _ties(run: Run, settings: Any) -> dict[str, dict[str, float]]:
  """How far ties decide each recall of the headline, by metric.

  `users` is the fraction of users whose tie reaches over the cutoff, so that
  the expected rank decides whether they are a hit; `at_random` is the recall if
  ties were broken at random.
  """
  first, last = (run.block.columns[f"tie.{end}"] for end in ("first", "last"))
  found = {}
  for name in settings.metrics:
    kind, cutoff, of_text = ranking_metrics.parse(name)
    if kind != "recall" or of_text or cutoff is None:
      continue
    found[name] = {
      "users": float(np.mean((first <= cutoff) & (last > cutoff))),
      "at_random": float(
        np.mean(ranking_metrics.hits_at_random(first, last, cutoff))
      ),
    }
  return found


def _curve(run: Run, settings: Any) -> dict[str, Any]:
  """Every metric for each value of the setting that the recommender varied."""
  varied = run.block.varied
  if varied is None:
    return {}
  names, ranks = tuple(settings.metrics), run.block.named("curve")
  points = []
  for index, value in enumerate(varied.values):
    values = ranking_metrics.user_values(
      names, ranks["rank"][:, index], ranks["text_rank"][:, index]
    )
    means = settings.bootstrap.means(values)
    points.append({"value": value, "metrics": named(names, means)})
  return {"curve": {"setting": varied.setting, "points": points}}


def _slices(
  values: np.ndarray, slicings: Mapping[str, Slicing], settings: Any
) -> dict[str, Any]:
  columns = [
    list(settings.metrics).index(name) for name in settings.slice_metrics
  ]
  bootstrap: Bootstrap = settings.bootstrap
  found: dict[str, Any] = {}
  for name, slicing in slicings.items():
    found[name] = {}
    for code, label in enumerate(slicing.labels):
      part = values[slicing.codes == code][:, columns]
      found[name][label] = {
        "users": len(part),
        **named(settings.slice_metrics, bootstrap.means(part)),
      }
  return found


def named(
  names: Sequence[str], intervals: Sequence[Interval]
) -> dict[str, dict[str, Any]]:
  """Intervals by metric; JSON has no NaN, so no users give null."""
  return {
    name: {
      key: None if np.isnan(number) else number
      for key, number in interval._asdict().items()
    }
    for name, interval in zip(names, intervals, strict=True)
  }
