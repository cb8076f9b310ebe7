"""The report's tables of metrics: who is best, how sure, and on whom."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from calrec_jax.evaluate.report import figures
from calrec_jax.evaluate.report.markup import (
  Html,
  escape,
  facts,
  join,
  phrase,
  section,
  tag,
)
from calrec_jax.evaluate.report.markup import table as html_table
from calrec_jax.evaluate.results import Results
from calrec_jax.evaluate.summary import compare
from calrec_jax.evaluate.table import (
  RULE_TEXTS,
  by_quality,
  interval,
  metric_label,
  number,
  rate,
  verdict,
)

_VERDICTS = {"+": "better", "-": "worse", "~": "undecided"}


def verdict_sentence(results: Results) -> Html:
  """Who ranks best, by how much, and whether that is more than chance."""
  protocol = results.protocol
  compared, reference = protocol["compared"], protocol["reference"]
  best, *others = by_quality(results)
  label = metric_label(compared)
  entry = results.recommenders[best]
  parts: list[object] = [
    tag("strong", best),
    f" ranks best: {label} {interval(entry['metrics'][compared])} over "
    f"{protocol['users']:,} users.",
  ]
  if others:
    parts.append(join(" ", _behind(results, best, others[0]), "."))
  if others and reference not in (best, others[0]):
    parts.append(
      join(" The reference, ", _behind(results, best, reference), ".")
    )
  return tag("p", *parts, class_="verdict")


def _behind(results: Results, best: str, other: str) -> Html:
  """How far `other` is behind, and whether that may be chance."""
  difference = compare(results, best, other)
  decided = verdict(difference) == "+"
  return join(
    tag("strong", other),
    f" is {interval(difference)} behind",
    "" if decided else ", too little to tell from chance",
  )


def metrics_section(results: Results) -> Html:
  """The headline, every metric, and the candidate rules side by side."""
  return section(
    "Results",
    _headline(results),
    tag("h3", "Hits and coverage"),
    _points(results, [*_named_so(results, "recall"), "coverage@10"]),
    tag("h3", "Places"),
    _points(results, [*_named_so(results, "ndcg"), *_named_so(results, "mrr")]),
    *(
      [tag("h3", "By candidate rule"), _rules(results)]
      if len(results.protocol["candidate_rules"]) > 1
      else []
    ),
    id="results",
  )


def _headline(results: Results) -> Html:
  protocol = results.protocol
  compared, reference = protocol["compared"], protocol["reference"]
  beside = [name for name in ("recall@10",) if name in protocol["metrics"]]
  shown = [compared, *(name for name in beside if name != compared)]
  order = by_quality(results)
  columns = [
    _column(results, order, lambda entry, m=metric: entry["metrics"][m])
    for metric in shown
  ]
  columns.append(
    _column(
      results,
      order,
      lambda entry: entry["difference"]["metrics"][compared],
      signed=True,
      without=reference,
    )
  )
  head = ["", *map(metric_label, shown)]
  head += [f"{metric_label(compared)} against {reference}", "Users a second"]
  rows = []
  for place, name in enumerate(order):
    entry = results.recommenders[name]
    speed = rate(entry["cost"]["users_per_second"])
    rows.append(
      [_named(name, entry), *(column[place] for column in columns), speed]
    )
  return html_table(head, rows, class_="numbers headline")


def _column(
  results: Results,
  order: Sequence[str],
  pick: Callable[[Mapping[str, Any]], Mapping[str, Any]],
  *,
  signed: bool = False,
  without: str | None = None,
) -> list[Html]:
  """Values with interval bars on one axis."""
  entries = {name: pick(results.recommenders[name]) for name in order}
  drawn = [entries[name] for name in order if name != without]
  stop = max([0.0, *(entry["high"] for entry in drawn)])
  start = min([0.0, *(entry["low"] for entry in drawn)])
  cells = []
  for name in order:
    entry = entries[name]
    if name == without:
      cells.append(tag("span", "reference", class_="soft"))
      continue
    sure = verdict(entry) if signed else ""
    cells.append(
      join(
        value_cell(entry, signed),
        figures.interval_bar(
          entry["value"], entry["low"], entry["high"], start, stop
        ),
        tag("span", _VERDICTS[sure], class_=f"sure {_VERDICTS[sure]}")
        if sure
        else "",
      )
    )
  return cells


def value_cell(entry: Mapping[str, Any], signed: bool = False) -> Html:
  """A value with its interval in small print."""
  if entry["low"] is None:
    return tag("b", number(entry["value"], signed))
  low, high = number(entry["low"], signed), number(entry["high"], signed)
  return join(
    tag("b", number(entry["value"], signed)),
    " ",
    tag("small", f"[{low}, {high}]"),
  )


def _named(name: str, entry: Mapping[str, Any]) -> Html:
  return join(name, tag("small", entry["description"], class_="what"))


def _named_so(results: Results, kind: str) -> list[str]:
  return [m for m in results.protocol["metrics"] if m.startswith(kind)]


def _points(results: Results, names: Sequence[str]) -> Html:
  rows = [
    [
      name,
      *(value_cell(results.recommenders[name]["metrics"][m]) for m in names),
    ]
    for name in by_quality(results)
  ]
  return html_table(
    ["", *map(metric_label, names)], rows, class_="numbers stacked"
  )


def _rules(results: Results) -> Html:
  protocol = results.protocol
  compared = protocol["compared"]
  head = [metric_label(compared)]
  for rule in protocol["candidate_rules"]:
    excluded = protocol["excluded_targets"][rule]
    head.append(
      join(
        RULE_TEXTS[rule],
        tag("small", f"{excluded:,} targets excluded", class_="what"),
      )
    )
  rows = []
  for name in by_quality(results):
    by_rule = results.recommenders[name]["candidates"]
    entries = [
      by_rule[rule]["metrics"][compared] for rule in protocol["candidate_rules"]
    ]
    rows.append([name, *map(value_cell, entries)])
  return html_table(head, rows, class_="numbers stacked")


def validity_section(results: Results) -> Html:
  """What recommenders that write texts report of them, and the cost."""
  children = []
  for name in by_quality(results):
    shares = results.recommenders[name].get("validity") or {}
    if shares:
      pairs = [(phrase(key), _share(v)) for key, v in shares.items()]
      children += [tag("h3", name), facts(pairs)]
  return section("Validity", *children, id="validity")


def _share(value: float | int) -> Html:
  if 0 <= value <= 1:
    return join(tag("b", f"{value:.1%}"), " ", figures.share_bar(value))
  return escape(f"{value:,.2f}")
