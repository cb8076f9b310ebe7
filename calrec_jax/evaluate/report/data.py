"""The report's pages on what was trained on: the data's card, the curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from calrec_jax.evaluate.report import figures
from calrec_jax.evaluate.report.markup import (
  Html,
  facts,
  join,
  phrase,
  section,
  tag,
)
from calrec_jax.evaluate.report.markup import table as html_table

_CURVES = {
  "loss": "Loss, all parts weighed",
  "loss_nig_nats": "Next item (NIG), nats a token",
  "loss_tt_nats": "Item and item in context (TT), nats",
  "loss_ut_nats": "User and item (UT), nats",
}
_SHARES = {
  "tied_times": "Events at the same time as the one before",
  "consecutive_repeats": "Events that repeat the item before",
  "consecutive_twins": "Events after another item with the same text",
  "consecutive_repeats_left": "Repeats that the k-core brought together",
  "twin_texts": "Items that share their text with an earlier one",
  "validation_targets_repeated": "Validation targets in their history",
  "test_targets_repeated": "Test targets in their history",
  "test_targets_cold": "Test targets without a training event",
}
_SUMMARIES = (
  "events_per_user",
  "tokens_per_item",
  "tokens_per_event",
  "words_per_item",
)
_COUNTS = ("users", "items", "events")


def training_section(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Html:
  """The curves of every stage.

  Args:
    curves: rows of `metrics.jsonl` by stage, in the order of the stages; a row
      has `step`, `split` (`train` or `validation`) and values.
  """
  children = []
  for stage, rows in curves.items():
    panels = [
      figures.curve(
        title, _series(rows, key, "train"), _series(rows, key, "validation")
      )
      for key, title in _panels(rows).items()
    ]
    if any(panels):
      children += [
        tag("h3", stage, " ", tag("small", _stage_line(rows))),
        tag("div", *panels, class_="panels"),
      ]
  if not children:
    return Html("")
  legend = tag(
    "p",
    tag(
      "span",
      "training, with the range of the steps it stands for",
      class_="key train-key",
    ),
    tag("span", "validation", class_="key valid-key"),
    class_="legend",
  )
  return section("Training", legend, *children, id="training")


def _panels(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """Quantities worth a chart with their titles, losses first."""
  found = dict.fromkeys(key for row in rows for key in row)
  losses = {key: _CURVES[key] for key in _CURVES if key in found}
  others = {
    key: phrase(key)
    for key in found
    if key not in _CURVES and ("loss" in key or "accuracy" in key)
  }
  return {**losses, **others}


def _series(
  rows: Sequence[Mapping[str, Any]], key: str, split: str
) -> list[tuple[float, float]]:
  return [
    (float(row["step"]), float(row[key]))
    for row in rows
    if isinstance(row.get(key), int | float)
    and str(row.get("split", "train")) == split
  ]


def _stage_line(rows: Sequence[Mapping[str, Any]]) -> str:
  parts = [f"{max(row['step'] for row in rows):,} steps"]
  speeds = sorted(
    value for _, value in _series(rows, "tokens_per_second", "train")
  )
  if speeds:
    parts.append(f"{speeds[len(speeds) // 2]:,.0f} tokens a second")
  return ", ".join(parts)


def card_section(card: Mapping[str, Any]) -> Html:
  """The card of the evaluated dataset, as `calrec data card` prints it."""
  title = f"Data: {card['domain']}" if card.get("domain") else "Data"
  return section(
    title,
    _example(card),
    _funnel(card.get("steps") or ()),
    _problems(card),
    _shares(card),
    _lengths(card),
    _origin(card),
    id="data",
  )


def _example(card: Mapping[str, Any]) -> Html:
  if not card.get("example"):
    return Html("")
  return tag(
    "p", "An item reads: ", tag("q", card["example"]), class_="example"
  )


def _funnel(steps: Sequence[Mapping[str, Any]]) -> Html:
  """Counts after every step; the bar is the share of the first events left."""
  if not steps:
    return Html("")
  most = max((step.get("events") or 0 for step in steps), default=0)
  rows = []
  for step in steps:
    counts = [
      f"{step[key]:,}" if step.get(key) is not None else "" for key in _COUNTS
    ]
    bar = figures.share_bar((step.get("events") or 0) / most) if most else ""
    notes = [
      f"{value:,} {key.replace('_', ' ')}"
      for key, value in step.items()
      if key not in (*_COUNTS, "step") and isinstance(value, int)
    ]
    rows.append(
      [
        phrase(str(step.get("step", ""))),
        *counts,
        bar,
        tag("small", ", ".join(notes)),
      ]
    )
  head = ["Step", "Users", "Items", "Events", "Share of events", ""]
  return join(
    tag("h3", "Counts after every step"),
    html_table(head, rows, class_="numbers plain funnel"),
  )


def _problems(card: Mapping[str, Any]) -> Html:
  if "problems" not in card:
    return Html("")
  problems = card["problems"]
  if not problems:
    return tag("p", "No bad rows were found in the input.")
  rows = [
    [
      phrase(str(row.get("kind", ""))),
      f"{row.get('count', 0):,}",
      tag("code", row.get("first", "")),
      row.get("meaning", ""),
    ]
    for row in problems
  ]
  return join(
    tag("h3", "Bad rows"),
    html_table(
      ["Kind", "Rows", "First at", "What became of them"], rows, class_="plain"
    ),
  )


def _shares(card: Mapping[str, Any]) -> Html:
  pairs = [
    (_SHARES.get(key, phrase(key)), f"{share:.2%}")
    for key, share in (card.get("shares") or {}).items()
  ]
  pairs += [
    (f"Items without {label}", f"{share:.2%}")
    for label, share in (card.get("missing_fields") or {}).items()
  ]
  if not pairs:
    return Html("")
  return join(tag("h3", "Shares"), facts(pairs))


def _lengths(card: Mapping[str, Any]) -> Html:
  rows = []
  for key in _SUMMARIES:
    summary = card.get(key)
    if summary:
      values = [summary.get(k) for k in ("mean", "median", "p95", "max")]
      cells = ["" if v is None else f"{v:,g}" for v in values]
      rows.append([phrase(key), *cells])
  if not rows:
    return Html("")
  head = ["", "Mean", "Median", "95%", "Longest"]
  return join(
    tag("h3", "Lengths"), html_table(head, rows, class_="numbers plain")
  )


def _origin(card: Mapping[str, Any]) -> Html:
  """Files with their hashes, the period, and how the log was cut."""
  period = card.get("period") or {}
  configuration = card.get("configuration") or {}
  pairs: list[tuple[object, object]] = [
    ("Fingerprint", _code(card.get("fingerprint"))),
    *((phrase(key), _plain(v)) for key, v in configuration.items()),
    *((phrase(key), value) for key, value in period.items()),
    *(
      (entry.get("file", ""), _code(entry.get("sha256")))
      for entry in card.get("inputs") or ()
    ),
    *(
      (f"{name}, as written", _code(sha256))
      for name, sha256 in (card.get("outputs") or {}).items()
    ),
  ]
  listed = facts(pairs)
  if not listed:
    return Html("")
  return join(tag("h3", "Origin"), listed)


def _code(digest: str | None) -> Html | None:
  return tag("code", digest[:16], title=digest) if digest else None


def _plain(value: Any) -> Any:
  if isinstance(value, list | tuple):
    return ", ".join(map(str, value))
  return str(value) if isinstance(value, bool) else value
