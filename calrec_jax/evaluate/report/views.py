"""What the report shows of results and training curves, as plain data.

A column is a mapping of `label`, `note` and `entries`: for each recommender a
mapping of `value`, `low` and `high`. A table is a list of columns under a
`heading`; its `corner` is the head of the recommenders' names.
"""

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from calrec_jax.evaluate.report import figures
from calrec_jax.evaluate.report.formats import phrase
from calrec_jax.evaluate.table import RULE_TEXTS
from calrec_jax.evaluate.wording import metric_label

_SLICINGS = {
  "history_length": "History length",
  "target_popularity": "Target popularity",
  "target_training": "Cold and warm targets",
  "target_repeat": "Target in the history",
}
_LOSSES = {
  "loss": "Total loss, weighted",
  "loss_nig_nats": "Next item (NIG), nats per token",
  "loss_tt_nats": "Item and item in context (TT), nats",
  "loss_ut_nats": "User and item (UT), nats",
}

Record = Mapping[str, Any]
Recommenders = Mapping[str, Record]
Column = dict[str, Any]
Table = dict[str, Any]


def headline(recommenders: Recommenders, protocol: Record) -> list[Column]:
  """Columns of the first table, the last of differences to the reference."""
  compared, reference = protocol["compared"], protocol["reference"]
  metrics = [m for m in (compared, "recall@10") if m in protocol["metrics"]]
  others = {k: v for k, v in recommenders.items() if k != reference}
  title = f"{metric_label(compared)} vs. {reference}"
  return [
    *_metric_columns(recommenders, dict.fromkeys(metrics)),
    _column(others, ("difference", "metrics", compared), title),
  ]


def tables(recommenders: Recommenders, protocol: Record) -> list[Table]:
  """Every metric, and the compared one under each candidate rule."""
  compared, rules = protocol["compared"], protocol["candidate_rules"]
  recall, ndcg, mrr = (
    [name for name in protocol["metrics"] if name.startswith(kind)]
    for kind in ("recall", "ndcg", "mrr")
  )
  hits = _metric_columns(recommenders, [*recall, "coverage@10"])
  ranks = _metric_columns(recommenders, [*ndcg, *mrr])
  found = [
    {"heading": "Hits and coverage", "corner": "", "columns": hits},
    {"heading": "Ranking quality", "corner": "", "columns": ranks},
  ]
  if len(rules) > 1:
    columns = []
    for rule in rules:
      path = ("candidates", rule, "metrics", compared)
      note = f"{protocol['excluded_targets'][rule]:,} targets excluded"
      columns.append(_column(recommenders, path, RULE_TEXTS[rule], note))
    corner = metric_label(compared)
    found.append(
      {"heading": "By candidate rule", "corner": corner, "columns": columns}
    )
  return found


def slices(recommenders: Recommenders, protocol: Record) -> list[Table]:
  """Tables of the compared metric of each group of users.

  Where slices do not have the compared metric, their first one is shown. The
  charts of a table have an axis up to its `stop`.
  """
  found = []
  for slicing, buckets in next(iter(recommenders.values()))["slices"].items():
    users = {k: v["users"] for k, v in buckets.items() if v["users"]}
    if not users:
      continue
    measured = [key for key in buckets[next(iter(users))] if key != "users"]
    compared = protocol["compared"]
    metric = compared if compared in measured else measured[0]
    columns = []
    for label, count in users.items():
      path = ("slices", slicing, label, metric)
      columns.append(_column(recommenders, path, label, f"{count:,} users"))
    found.append(
      {
        "heading": _SLICINGS.get(slicing, phrase(slicing)),
        "corner": metric_label(metric),
        "columns": columns,
        "stop": max(e["high"] for c in columns for e in c["entries"].values()),
      }
    )
  return found


def training(curves: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
  """Charts of every stage's losses and accuracies, losses first."""
  stages = []
  for stage, rows in curves.items():
    keys = dict.fromkeys(key for row in rows for key in row)
    titles = {key: title for key, title in _LOSSES.items() if key in keys}
    for key in keys:
      if "loss" in key or "accuracy" in key:
        titles.setdefault(key, phrase(key))
    charts = []
    for key, title in titles.items():
      series = (_series(rows, key, split) for split in ("train", "validation"))
      charts.append(figures.training_curve(title, *series))
    charts = [chart for chart in charts if chart]
    summary = f"{max((row['step'] for row in rows), default=0):,} steps"
    speeds = sorted(v for _, v in _series(rows, "tokens_per_second", "train"))
    if speeds:
      summary += f", {speeds[len(speeds) // 2]:,.0f} tokens per second"
    if charts:
      stages.append({"name": stage, "summary": summary, "charts": charts})
  return stages


def _series(
  rows: Sequence[Record], key: str, split: str
) -> list[tuple[float, float]]:
  return [
    (float(row["step"]), float(row[key]))
    for row in rows
    if isinstance(row.get(key), int | float)
    and row.get("split", "train") == split
  ]


def _column(
  recommenders: Recommenders, path: Sequence[str], label: str, note: str = ""
) -> Column:
  """The column of what is at a path of keys in each recommender."""
  entries = {
    name: functools.reduce(operator.getitem, path, recommender)
    for name, recommender in recommenders.items()
  }
  return {"label": label, "note": note, "entries": entries}


def _metric_columns(
  recommenders: Recommenders, metrics: Iterable[str]
) -> list[Column]:
  return [
    _column(recommenders, ("metrics", metric), metric_label(metric))
    for metric in metrics
  ]
