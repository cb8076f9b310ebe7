"""The report on groups of users, and on settings that were varied: pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

from calrec_jax.evaluate.report import figures
from calrec_jax.evaluate.report.markup import Html, join, phrase, section, tag
from calrec_jax.evaluate.report.markup import table as html_table
from calrec_jax.evaluate.report.numbers import value_cell
from calrec_jax.evaluate.results import Results
from calrec_jax.evaluate.table import by_quality, metric_label

_SLICINGS = {
  "history_length": "Length of the history",
  "target_popularity": "Popularity of the target",
  "target_training": "Has the target a training event",
  "target_repeat": "Is the target in the history",
}


def slices_section(results: Results) -> Html:
  """The compared metric for each group of users, drawn and in numbers."""
  order = by_quality(results)
  first = results.recommenders[order[0]]["slices"]
  children = []
  for name, buckets in first.items():
    labels = [label for label in buckets if buckets[label]["users"]]
    if not labels:
      continue
    children.append(tag("h3", _SLICINGS.get(name, phrase(name))))
    if len(labels) == 1:
      children.append(tag("p", f"All users: {labels[0]}."))
      continue
    slices = {key: results.recommenders[key]["slices"][name] for key in order}
    metric = _metric_of(results, slices[order[0]][labels[0]])
    children += [
      _pictures(slices, labels, metric),
      _numbers(slices, labels, metric),
    ]
  return section("Who is served how well", *children, id="slices")


def curves_section(results: Results) -> Html:
  """How recommenders fare with other values of a setting they varied."""
  children = []
  for name in by_quality(results):
    curve = results.recommenders[name].get("curve")
    if not curve:
      continue
    sample = curve["points"][0]["metrics"]
    compared = results.protocol["compared"]
    shown = dict.fromkeys(m for m in (compared, "recall@10") if m in sample)
    children.append(tag("h3", f"{name}: number of {curve['setting']}"))
    children.append(
      tag(
        "div",
        *(_curve(curve, metric) for metric in shown),
        class_="panels",
      )
    )
  note = tag(
    "p",
    "Measured on the same users in one run; bands are intervals over users.",
    class_="soft",
  )
  return section(
    "With other settings", *([note] if children else []), *children, id="curves"
  )


def _curve(curve: Mapping[str, Any], metric: str) -> Html:
  points = []
  for point in curve["points"]:
    entry = point["metrics"][metric]
    points.append((point["value"], entry["value"], entry["low"], entry["high"]))
  return figures.setting_curve(
    f"{metric_label(metric)} by {curve['setting']}", points
  )


def _metric_of(results: Results, bucket: Mapping[str, Any]) -> str:
  """The compared metric where slices have it, else their first one."""
  compared = results.protocol["compared"]
  if compared in bucket:
    return compared
  return next(key for key in bucket if key != "users")


def _pictures(
  slices: Mapping[str, Mapping[str, Any]], labels: Sequence[str], metric: str
) -> Html:
  """A chart for each bucket, all on the same axis."""
  stop = max(
    buckets[label][metric]["high"]
    for buckets in slices.values()
    for label in labels
  )
  charts = []
  for label in labels:
    rows = []
    for name, buckets in slices.items():
      entry = buckets[label][metric]
      rows.append((name, entry["value"], entry["low"], entry["high"]))
    users = next(iter(slices.values()))[label]["users"]
    charts.append(
      figures.bars(
        label, f"{metric_label(metric)}, {users:,} users", rows, stop
      )
    )
  return tag("div", *charts, class_="panels")


def _numbers(
  slices: Mapping[str, Mapping[str, Any]], labels: Sequence[str], metric: str
) -> Html:
  first = next(iter(slices.values()))
  head = [metric_label(metric)]
  for label in labels:
    users = tag("small", f"{first[label]['users']:,} users", class_="what")
    head.append(join(label, users))
  rows = [
    [name, *(value_cell(buckets[label][metric]) for label in labels)]
    for name, buckets in slices.items()
  ]
  return html_table(head, rows, class_="numbers stacked")
