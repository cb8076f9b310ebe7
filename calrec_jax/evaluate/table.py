"""The results as a table for the terminal."""

import textwrap
from collections.abc import Mapping
from typing import Any

from calrec_jax.evaluate import members
from calrec_jax.evaluate.results import Results
from calrec_jax.evaluate.wording import (
  interval,
  metric_label,
  number,
  rate,
  verdict,
)

Record = Mapping[str, Any]
Grid = tuple[list[str], list[list[str]]]

_ALSO = ("recall@10",)
_POINTS = ("recall@1", "recall@50", "mrr", "recall@10_text")
_COLUMNS = 100  # Width of a line of words.
# Fraction of users whose hit a tie decides that is worth a note.
NOTABLE_TIES = 0.05
RULE_TEXTS = {
  "all": "all items",
  "not_last": "all but the last item",
  "not_seen": "all but the seen items",
}


def format_table(results: Results) -> str:
  """The headline numbers of every recommender, aligned, best first.

  Values are fractions. Brackets hold the bootstrap interval. The sign after a
  difference says whether its interval leaves out zero: `+` better, `-` worse,
  `~` undecided. What the members of a fusion brought follows in words.

  Returns:
    Lines of text without colour, for a terminal of 100 columns.
  """
  protocol, entries = results.protocol, by_quality(results)
  blocks = [
    _title(results),
    grid(*_headline(protocol, entries)),
    grid(*_details(protocol, entries)),
  ]
  if len(protocol["candidate_rules"]) > 1:
    blocks.append(grid(*_rules(protocol, entries)))
  for name in members.fusions(results):
    said = members.sentences(results, name)
    blocks.append("\n".join(map(_filled, said)))
  notes = "\n".join([_notes(protocol), *tie_notes(entries)])
  return "\n\n".join([*blocks, notes])


def tie_notes(entries: Record) -> list[str]:
  """A sentence for each recommender whose ties decide many users' hits.

  The cutoff is 10 where it is measured, else the one that most ties decide.
  Results of earlier versions know nothing of ties.
  """
  notes = []
  for name, entry in entries.items():
    ties = entry.get("ties") or {}
    metric = "recall@10"
    if metric not in ties:
      metric = max(ties, key=lambda key: ties[key]["users"], default="")
    tie = ties.get(metric)
    if tie is None or tie["users"] < NOTABLE_TIES:
      continue
    value = entry["metrics"][metric]["value"]
    notes.append(
      f"{name}: the target ties with items on both sides of the cutoff for "
      f"{tie['users']:.0%} of users: {metric_label(metric)} is {number(value)} "
      f"by the expected rank, {number(tie['at_random'])} if ties were broken "
      "at random."
    )
  return notes


def by_quality(results: Results) -> Record:
  """The numbers of every recommender, best first by the compared metric."""
  compared = results.protocol["compared"]

  def quality(entry: tuple[str, Record]) -> tuple[float, str]:
    return -entry[1]["metrics"][compared]["value"], entry[0]

  return dict(sorted(results.recommenders.items(), key=quality))


def _filled(sentence: str) -> str:
  return textwrap.fill(
    sentence, _COLUMNS, subsequent_indent="  ", break_on_hyphens=False
  )


def _title(results: Results) -> str:
  protocol = results.protocol
  parts = [
    str(results.data.get("name") or results.data.get("domain") or ""),
    f"{protocol['users']:,} users",
    f"{protocol['items']:,} items",
    f"candidates: {RULE_TEXTS[protocol['candidates']]}",
  ]
  return " · ".join(part for part in parts if part)


def _headline(protocol: Record, entries: Record) -> Grid:
  """The numbers that decide, with their intervals."""
  compared, reference = protocol["compared"], protocol["reference"]
  shown = [compared]
  shown += [m for m in _ALSO if m in protocol["metrics"] and m != compared]
  label = metric_label(compared)
  rows = []
  for name, entry in entries.items():
    cells = [interval(entry["metrics"][metric]) for metric in shown]
    difference = entry["difference"]["metrics"][compared]
    own = f"{interval(difference, signed=True)} {verdict(difference)}"
    rows.append([name, *cells, "" if name == reference else own])
  return ["", *map(metric_label, shown), f"{label} - {reference}  "], rows


def _details(protocol: Record, entries: Record) -> Grid:
  """More metrics, coverage and speed."""
  points = [name for name in _POINTS if name in protocol["metrics"]]
  points += ["coverage@10"]
  rows = []
  for name, entry in entries.items():
    cells = [number(entry["metrics"][metric]["value"]) for metric in points]
    rows.append([name, *cells, rate(entry["cost"]["users_per_second"])])
  return ["", *map(metric_label, points), "users/s"], rows


def _rules(protocol: Record, entries: Record) -> Grid:
  """The compared metric under each candidate rule."""
  compared, rules = protocol["compared"], protocol["candidate_rules"]
  rows = []
  for name, entry in entries.items():
    found = [entry["candidates"][rule]["metrics"][compared] for rule in rules]
    rows.append([name, *map(interval, found)])
  return [f"{metric_label(compared)} by candidates", *rules], rows


def grid(header: list[str], rows: list[list[str]]) -> str:
  """Columns aligned: names to the left, numbers to the right."""
  widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
  rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
  lines = []
  for first, *cells in (header, *rows):
    right = map(str.rjust, cells, widths[1:])
    lines.append("  ".join([first.ljust(widths[0]), *right]).rstrip())
  return "\n".join([lines[0], rule, *lines[1:]])


def _notes(protocol: Record) -> str:
  intervals = protocol["intervals"]
  rule = protocol["candidates"]
  lines = [
    f"[low, high] is the {intervals['confidence']:.0%} bootstrap interval over "
    f"users, from {intervals['resamples']:,} resamples.",
    "+ better, - worse, ~ undecided: does the difference's interval leave out "
    "zero?",
  ]
  if protocol["excluded_targets"][rule]:
    lines.append(
      f"{protocol['excluded_targets'][rule]:,} users' targets are excluded by "
      f"{rule} and count as misses."
    )
  return "\n".join(lines)
