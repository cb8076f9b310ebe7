"""The card of a dataset: its content, sources and bad rows.

A card is plain JSON, stored with the token cache and everything made from it.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import dataclasses
import hashlib
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.domain import splits
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.columns import id_codes
from calrec_jax.data.logs.reading import tables

SCHEMA = 1


def build_card(
  domain: domain_lib.Domain,
  prepared: domain_lib.Prepared,
  *,
  item_tokens: Sequence[np.ndarray],
  vocabulary: Mapping[str, Any],
  leakage_checks: Sequence[str],
) -> dict[str, Any]:
  """Describes a prepared domain.

  Args:
    domain: Configuration of the domain.
    prepared: Documents and catalogue of the domain.
    item_tokens: Token ids of every item with its end marker.
    vocabulary: Description by `Vocabulary.describe`.
    leakage_checks: Checks that have passed, from `leakage.Check.passed`.
  """
  lengths = np.array([len(tokens) for tokens in item_tokens], np.int32)
  events = prepared.events
  kinds = _kinds(prepared)
  per_user = np.bincount(events.users)
  return {
    "schema": SCHEMA,
    "domain": domain.name,
    "fingerprint": domain.fingerprint(),
    "configuration": {
      "fields": [
        f"{field.label} <- {field.column}" for field in prepared.fields
      ],
      "dedup": domain.dedup,
      "min_count": domain.min_count,
      "split": domain.split,
      "max_history": domain.max_history,
      "strict": domain.strict,
    },
    "inputs": domain.source.inputs(),
    "reading": prepared.problems.reading,
    "times": prepared.problems.times,
    "notes": [note._asdict() for note in prepared.problems.notes()],
    "excluded": prepared.problems.excluded,
    "steps": prepared.steps,
    **({"kinds": kinds} if kinds else {}),
    "problems": prepared.problems.as_list(),
    "shares": _rounded(prepared.fractions | _repeat_targets(prepared)),
    "missing_fields": _rounded(prepared.missing),
    "period": _period(prepared),
    "tokens_per_item": _summary(lengths),
    "tokens_per_event": _summary(lengths[events.items]),
    "words_per_item": _summary(
      np.array([len(text.split()) for text in prepared.texts])
    ),
    "events_per_user": _summary(per_user[per_user > 0]),
    "vocabulary": dict(vocabulary),
    "leakage": {"passed": True, "checks": list(leakage_checks)},
    "outputs": _outputs(prepared, item_tokens),
    "example": prepared.texts[0],
  }


_COMPARISONS: list[Callable[[Mapping[str, Any]], list[str]]] = []


def compare_with(lines: Callable[[Mapping[str, Any]], list[str]]) -> None:
  """Adds lines to every rendered card, such as published counts.

  Args:
    lines: Function from a card to its lines.
  """
  if lines not in _COMPARISONS:
    _COMPARISONS.append(lines)


def render(card: Mapping[str, Any]) -> str:
  """The card as text for a terminal."""
  vocabulary = card["vocabulary"]
  lines = [
    f"{card['domain']}  (fingerprint {card['fingerprint'][:12]})",
    f"  an item: {card['example']}",
    "",
    *_first_lines(card),
    f"  {'step':<22}{'users':>10}{'items':>10}{'events':>12}",
    *map(_step_line, card["steps"]),
    "",
    *_kind_lines(card.get("kinds", {})),
    *_comparison_lines(card),
    *_excluded_lines(card.get("excluded", {})),
    "  bad rows" if card["problems"] else "  no bad rows",
    *map(problems_lib.line, card["problems"]),
    "",
    *(
      f"  {card['shares'][name]:>8.2%}  {words}"
      for name, words in _FRACTIONS.items()
      if name in card["shares"]
    ),
    *(
      f"  {fraction:>8.2%}  of items without {label}"
      for label, fraction in card["missing_fields"].items()
    ),
    "",
    *(_length_line(name, card[name]) for name in _LENGTHS),
    *_period_lines(card["period"]),
    f"  {vocabulary_line(vocabulary)}, sha256 {vocabulary['sha256'][:12]}",
    f"  leakage: {len(card['leakage']['checks'])} checks passed",
    "",
    *_reading_lines(card),
    *_input_lines(card["inputs"]),
    *(
      f"  out  {sha256[:12]}  {name}"
      for name, sha256 in card["outputs"].items()
    ),
  ]
  return "\n".join(lines)


def vocabulary_line(vocabulary: Mapping[str, Any]) -> str:
  """Size of a card's vocabulary, and its fraction of the model's own."""
  size, full = vocabulary["size"], vocabulary.get("full_size")
  line = f"vocabulary: {size:,} tokens"
  if full is None:
    return line
  if full == size:
    return f"{line}, all of the pretrained model's"
  return f"{line}, {size / full:.1%} of the pretrained model's {full:,}"


def _comparison_lines(card: Mapping[str, Any]) -> list[str]:
  found = [line for compare in _COMPARISONS for line in compare(card)]
  return [*found, ""] if found else []


def _step_line(step: Mapping[str, Any]) -> str:
  cells = "".join(
    f"{step[key]:>{width},}" if key in step else " " * width
    for key, width in (("users", 10), ("items", 10), ("events", 12))
  )
  notes = ", ".join(
    f"{step[key]:,} {words}" for key, words in _NOTES.items() if key in step
  )
  return f"  {step['step']:<22}{cells}  {notes}".rstrip()


def _first_lines(card: Mapping[str, Any]) -> list[str]:
  """What a person should look at first: notes, worst first, and bad rows."""
  if "notes" not in card:
    return [
      "  look at this first",
      "    info     this cache was made by an earlier release, which read logs",
      "             with fewer checks; remove its folder to read them again",
      "",
    ]
  lines = []
  notes = [*_lost(card), *card["notes"]]
  notes.sort(key=lambda note: problems_lib.SEVERITIES.index(note["severity"]))
  for note in notes:
    lines += textwrap.wrap(
      note["message"],
      _WIDTH,
      initial_indent=f"    {note['severity']:<9}",
      subsequent_indent=" " * 13,
      break_long_words=False,
      break_on_hyphens=False,
    )
    if note["remedy"]:
      lines.append(f"{'':13}-> {note['remedy']}")
  return ["  look at this first", *lines, ""] if lines else []


def _lost(card: Mapping[str, Any]) -> list[dict[str, str]]:
  """Notes on kinds of bad rows that are many, and that no note explains."""
  rows = card["steps"][0].get("events", 0)
  explained = {note.get("about") for note in card["notes"]}
  notes = []
  for bad in card["problems"]:
    share = bad["count"] / max(rows, 1)
    if share <= _MANY or bad["kind"] in explained:
      continue
    is_lost = bad["kind"] not in _KEPT
    count = f"{bad['count']:,}"
    if is_lost:
      count += f" of {rows:,} rows ({share:.1%})"
    notes.append(
      {
        "severity": "wrong" if is_lost and share > _MOST else "suspect",
        "message": f"{bad['kind']}: {count}, {bad['meaning']}; the first at "
        f"{bad['first']}",
        "remedy": _REMEDIES.get(bad["kind"], ""),
      }
    )
  return notes


def _excluded_lines(excluded: Mapping[str, int]) -> list[str]:
  """The rows that conditions of the user's left out."""
  if not excluded:
    return []
  width = max(map(len, excluded))
  lines = [
    f"    {count:>9,}  {text:<{width}}" for text, count in excluded.items()
  ]
  return ["  rows left out by LogFiles.where", *map(str.rstrip, lines), ""]


def _reading_lines(card: Mapping[str, Any]) -> list[str]:
  """How each file was read, and what its lines were."""
  readings = card.get("reading", ())
  names = _short([row["file"] for row in readings])
  lines = []
  for name, row in list(zip(names, readings, strict=True))[:_MANY_FILES]:
    lines.append(f"  read {name}: {tables.in_words(row)}")
    unit = "rows" if row.get("format") in _BINARY else "lines"
    counts = [f"{row['lines']:,} {unit}"]
    for key, words in _LINES.items():
      if row.get(key):
        counts.append(f"{row[key]:,} {words}")
    lines.append(f"       {', '.join(counts)}")
  if len(readings) > _MANY_FILES:
    total = sum(row["lines"] for row in readings[_MANY_FILES:])
    lines.append(
      f"  read {len(readings) - _MANY_FILES:,} more files of {total:,} lines"
    )
  if card.get("times"):
    lines.append(f"  times from {card['times']}")
  return [*lines, ""] if lines else []


def _short(paths: Sequence[str]) -> list[str]:
  """Names of files; with their folders, where names alone are not distinct."""
  names = [os.path.basename(path) for path in paths]
  if len({*names}) == len(names):
    return names
  folder = os.path.commonpath(list(paths))
  return [path[len(folder) :].lstrip("/") for path in paths]


def _input_lines(inputs: Sequence[Mapping[str, Any]]) -> list[str]:
  lines = [
    f"  in   {row['sha256'][:12]}  {row['file']}"
    for row in inputs[:_MANY_FILES]
  ]
  if len(inputs) > _MANY_FILES:
    lines.append(f"  in   {len(inputs) - _MANY_FILES:,} more files")
  return lines


def _kind_lines(kinds: Mapping[str, Mapping[str, int]]) -> list[str]:
  """Lines of a card about its kinds of event; none without kinds."""
  if not kinds:
    return []
  rows = [
    f"  {name:<22}{count['events']:>32,}{count['targets']:>12,}"
    for name, count in kinds.items()
  ]
  return [f"  {'kind of event':<22}{'events':>32}{'targets':>12}", *rows, ""]


def _length_line(name: str, summary: Mapping[str, float]) -> str:
  return (
    f"  {name.replace('_', ' '):<18} mean {summary['mean']:g}, median "
    f"{summary['median']:g}, 95% {summary['p95']:g}, longest "
    f"{summary['max']:g}"
  )


def _period_lines(period: Mapping[str, str]) -> list[str]:
  lines = []
  if period:
    lines.append(f"  from {period['first']} to {period['last']} (UTC)")
  if "validation_start" in period:
    lines.append(
      f"  validation from {period['validation_start']}, test from "
      f"{period['test_start']}"
    )
  return lines


_LINES = {
  "header_lines": "of the header",
  "blank_lines": "blank",
  "rows": "rows",
  "quoted_lines": "inside quoted fields",
  "bad_lines": "bad",
}
_BINARY = {"parquet", "orc", "arrow", "xlsx"}
_WIDTH = 88  # Characters of a line with a note.
_MANY = 0.01  # Fraction of bad rows that is worth a note.
_MOST = 0.1  # Fraction of them that is very likely a mistake.
# Kinds of which the row stays, or another one that says the same.
_KEPT = {
  *("duplicate_event", "conflicting_item", "wrong_type", "web_page"),
  "unreadable_price",
}
_REMEDIES = {
  "duplicate_event": 'Domain.duplicates = "keep"  # if all are purchases',
}
_MANY_FILES = 12
_USERS = 1 << 16  # Hashed together.
_LENGTHS = (
  "tokens_per_item",
  "tokens_per_event",
  "words_per_item",
  "events_per_user",
)
_NOTES = {
  "targets": "that may be targets",
  "documents": "documents",
  "passes": "passes",
  "item_rows": "rows of items",
}
_FRACTIONS = {
  "tied_times": "of events at the same time as the user's event before",
  "consecutive_repeats": "of events repeat the item before",
  "consecutive_twins": "of events follow another item of the same text",
  "consecutive_repeats_left": "of events repeat the item before after k-core",
  "twin_texts": "of items share their text with an earlier one",
  "validation_targets_repeated": "of validation targets are in their history",
  "test_targets_repeated": "of test targets are in their history",
  "validation_targets_just_seen": (
    "of validation targets are the item of the event before, of another kind"
  ),
  "test_targets_just_seen": (
    "of test targets are the item of the event before, of another kind"
  ),
  "test_targets_cold": "of test targets have no training event",
}


def _repeat_targets(prepared: domain_lib.Prepared) -> dict[str, float]:
  """Fractions of targets bought before, and of targets never trained on."""
  fractions = {}
  items = prepared.events.items
  for split in ("validation", "test"):
    part = prepared.documents[split]
    rows = part.events()
    lengths = part.stops - part.starts
    again = items[rows] == np.repeat(items[part.stops - 1], lengths)
    counts = np.concatenate([[0], np.cumsum(again)])[np.cumsum(lengths)]
    # The target itself is one.
    repeated = int(np.count_nonzero(np.diff(counts, prepend=0) > 1))
    fractions[f"{split}_targets_repeated"] = repeated / max(len(part), 1)
    if prepared.events.targets is not None:
      fractions[f"{split}_targets_just_seen"] = _just_seen(prepared, part)
  test = items[prepared.documents["test"].stops - 1]
  cold = ~np.isin(test, prepared.train_items())
  fractions["test_targets_cold"] = float(np.mean(cold)) if len(cold) else 0.0
  return fractions


def _just_seen(prepared: domain_lib.Prepared, part: splits.Documents) -> float:
  """Fraction of targets whose item the event before has, of another kind.

  Such as the view of a product right before its purchase: no leak, but it
  makes many a target easy.
  """
  events = prepared.events
  at = part.stops - 1
  at = at[at > part.starts]
  if not len(at):
    return 0.0
  seen = events.items[at] == events.items[at - 1]
  for column in (events.kinds, events.targets):
    if column is not None:
      return float(np.sum(seen & (column[at] != column[at - 1])) / len(part))
  return 0.0


def _kinds(prepared: domain_lib.Prepared) -> dict[str, dict[str, int]]:
  """Numbers of events and of possible targets by kind; {} without targets."""
  events, targets = prepared.events, prepared.events.target_mask()
  if events.kinds is None:
    if events.targets is None:
      return {}
    counts = {"events": len(events), "targets": int(np.sum(targets))}
    return {"all events": counts}
  return {
    name: {
      "events": int(np.sum(events.kinds == code)),
      "targets": int(np.sum(targets[events.kinds == code])),
    }
    for code, name in enumerate(events.kind_names)
  }


def _period(prepared: domain_lib.Prepared) -> dict[str, str]:
  events = prepared.events
  if not events.by_time:
    return {}
  period = {
    "first": splits.day(int(events.timestamps.min())),
    "last": splits.day(int(events.timestamps.max())),
  }
  if prepared.boundaries is not None:
    for name, time in dataclasses.asdict(prepared.boundaries).items():
      period[name] = splits.day(time)
  return period


def _summary(values: np.ndarray) -> dict[str, float]:
  return {
    "mean": round(float(np.mean(values)), 2),
    "median": float(np.median(values)),
    "p95": float(np.quantile(values, 0.95)),
    "max": int(np.max(values)),
  }


def _outputs(
  prepared: domain_lib.Prepared, item_tokens: Sequence[np.ndarray]
) -> dict[str, str]:
  """sha256 of the catalogue, its tokens, and every split's documents."""
  catalogue = hashlib.sha256()
  for item_id, text in zip(prepared.item_ids, prepared.texts, strict=True):
    catalogue.update(f"{item_id}\0{text}\n".encode())
  tokens = hashlib.sha256()
  for ids in item_tokens:
    tokens.update(np.asarray(ids, "<i4").tobytes() + b"\xff\xff\xff\xff")
  hashes = {"catalogue": catalogue.hexdigest(), "tokens": tokens.hexdigest()}
  events = prepared.events
  user_ids = id_codes.strings(events.user_ids)
  for split, part in prepared.documents.items():
    content = hashlib.sha256()
    rows = part.events()
    for start in range(0, len(part), _USERS):
      users = user_ids.take(pa.array(part.users[start : start + _USERS]))
      content.update(_lines(users))
    content.update((part.stops - part.starts).astype("<i8").data)
    content.update(events.items[rows].astype("<i4", copy=False).data)
    content.update(events.timestamps[rows].astype("<i8", copy=False).data)
    for column in (events.kinds, events.targets):
      if column is not None:
        content.update(column[rows].data)
    hashes[split] = content.hexdigest()
  return hashes


def _lines(texts: pa.LargeStringArray) -> bytes:
  """Texts, each with a line break after it."""
  nothing, mark = (pa.scalar(text, texts.type) for text in ("", "\n"))
  lines = pc.binary_join_element_wise(texts, nothing, mark)
  _, ends, data = lines.buffers()
  return bytes(data)[: np.frombuffer(ends, np.int64)[len(lines)]]


def _rounded(fractions: Mapping[str, float]) -> dict[str, float]:
  return {name: round(value, 6) for name, value in fractions.items()}
