"""What a log promises, as a table for the terminal and in plain sentences."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from calrec_jax.evaluate.promise import (
  METRICS,
  REFERENCE,
  SIGNALS,
  SPLIT,
  Measured,
  Promise,
)
from calrec_jax.evaluate.table import (
  RULE_TEXTS,
  grid,
  interval,
  metric_label,
  number,
)

_WIDTH = 88  # Characters of a line of sentences.
_INDENT = "  "
_FEW = 200  # Users that tell little apart.
_REPEATED = 0.01  # Fraction of repeated targets that makes new ones a subject.
_SMALL = 1 / 4  # Fraction of the best NDCG below which a signal adds little.
_WHAT = {
  "order": "what others bought next",
  "words": "texts say what goes together",
}


def format_promise(promise: Promise) -> str:
  """The table, how it was measured, and what it says, indented like a card."""
  rows = []
  signal_of = {name: key for key, names in SIGNALS.items() for name in names}
  for name in promise.everybody.values:
    label = f"{name} ({signal_of[name]})" if name in signal_of else name
    means = promise.everybody.means(name)
    if _new_are_apart(promise):
      means += promise.new.means(name)[:1]
    rows.append([label, *(interval(mean._asdict()) for mean in means)])
  header = ["", *map(metric_label, METRICS)]
  if _new_are_apart(promise):
    header.append(f"{metric_label(METRICS[0])}, new")
  paragraphs = [_title(promise), *_notes(promise)]
  said = " ".join(read(promise))
  blocks = [*map(_filled, paragraphs), grid(header, rows), _filled(said)]
  return textwrap.indent("\n".join(blocks), _INDENT)


def read(promise: Promise) -> list[str]:
  """What the numbers say, as sentences."""
  sentences = [_on_repeats(promise)]
  if not _repeats_matter(promise):
    # The least of the three comes last.
    sentences = [*_beyond_repeats(promise.everybody), *sentences]
  elif _new_are_apart(promise):
    first, *more = _beyond_repeats(promise.new)
    first = f"Where they were not, {first[0].lower()}{first[1:]}"
    sentences += [first, *more]
  return [*sentences, *_doubt(promise)]


def _repeats_matter(promise: Promise) -> bool:
  """Whether they hide what order and words know of new items."""
  return promise.rule != "not_seen" and promise.repeated >= _REPEATED


def _new_are_apart(promise: Promise) -> bool:
  """Whether users with new targets get a column and sentences."""
  return _repeats_matter(promise) and promise.new.users > 0


def _on_repeats(promise: Promise) -> str:
  if promise.rule == "not_seen":
    return "Repeats are no candidates (CANDIDATES = 'not_seen')."
  if not promise.repeated:
    return "Repeats tell nothing: no target was in its user's history."
  found = promise.everybody
  best = found.best("repeats")
  assert best is not None
  had = f"{promise.repeated:.1%} of the targets were in the user's history."
  if found.verdict(best) != "+":
    return f"Repeats tell little ({number(found.ndcg(best))}): {had}"
  others = (found.best(signal) for signal in _WHAT)
  beaten = any(o and found.verdict(o, best) == "+" for o in others)
  return (
    f"Repeats tell {'much' if beaten else 'most'} ({_against(found, best)}): "
    f"{had}"
  )


def _beyond_repeats(found: Measured) -> list[str]:
  """What order and words say, and which kind of model can learn from it."""
  best = {s: name for s in _WHAT if (name := found.best(s)) is not None}
  telling = [s for s in best if found.verdict(best[s]) == "+"]
  telling.sort(key=lambda signal: -found.ndcg(best[signal]))
  if not telling:
    points = ", ".join(f"{s} {number(found.ndcg(best[s]))}" for s in best)
    return [
      "Neither order nor words tell more than popularity "
      f"({number(found.ndcg(REFERENCE))}; {points}).",
      "Models of words and of item ids both have little to learn from.",
    ]
  first, *more = telling
  if more and found.verdict(best[first], best[more[0]]) == "~":
    return [
      "Order and words tell most, about equally "
      f"({_against(found, best['order'], best['words'])}): "
      f"{_WHAT['order']}, and {_WHAT['words']}.",
      "Models of words and of item ids both have much to learn from.",
    ]
  tell = {"order": "Order tells", "words": "Words tell"}[first]
  return [
    f"{tell} most ({_against(found, best[first])}): {_WHAT[first]}.",
    *(
      _second(found, signal, best[signal], signal in more, best[first])
      for signal in best
      if signal != first
    ),
    _advice(first, bool(more)),
  ]


def _second(
  found: Measured, signal: str, name: str, tells: bool, first: str
) -> str:
  """The sentence on order or words where the other one tells most."""
  value = number(found.ndcg(name))
  if not tells:
    promise = {"order": "Order promises", "words": "Words promise"}[signal]
    less = "less" if found.verdict(name) == "-" else "no more"
    return f"{promise} little ({value}, {less} than popularity)."
  add, they = {
    "order": ("Order adds", "it alone finds"),
    "words": ("Words add", "they alone find"),
  }[signal]
  if found.ndcg(name) < _SMALL * found.ndcg(first):
    add += " a little"
  alone = f"{found.found_alone(name):.1%}"
  return f"{add} ({value}): {they} {alone} of the targets in ten items."


def _advice(first: str, both: bool) -> str:
  """Which kind of model can learn most."""
  kinds = {"order": "one of item ids", "words": "one of words"}
  second = kinds["words" if first == "order" else "order"]
  most = kinds[first].replace("one", "A model")
  if both:
    return f"{most} will matter most, and {second} helps."
  return f"{most} will matter more than {second}."


def _against(found: Measured, *names: str) -> str:
  """`.0724 and .0411 against .0002 of popularity`."""
  values = " and ".join(number(found.ndcg(name)) for name in names)
  return f"{values} against {number(found.ndcg(REFERENCE))} of popularity"


def _doubt(promise: Promise) -> Iterator[str]:
  """Says so if there are too few users to tell anything apart."""
  if promise.everybody.users < _FEW:
    yield f"But {promise.everybody.users} users tell little apart."
  elif _new_are_apart(promise) and promise.new.users < _FEW:
    yield f"But {promise.new.users} users with new items tell little apart."


def _title(promise: Promise) -> str:
  sample, users = promise.sample, f"{promise.everybody.users:,}"
  if promise.everybody.users < sample.users:
    users += f" of {sample.users:,}"
  confidence = f"{promise.everybody.bootstrap.confidence:.0%}"
  return (
    f"what this log promises before any training: {users} {SPLIT} users, "
    f"candidates: {RULE_TEXTS[promise.rule]}, [{confidence} intervals]"
  )


def _notes(promise: Promise) -> Iterator[str]:
  sample = promise.sample
  if _new_are_apart(promise):
    yield (
      f"new: only the {promise.new.users:,} users whose target is not in their "
      "history; their own items are no candidates"
    )
  counted = len(sample.events.offsets) - 1
  if counted < sample.train_users:
    yield (
      f"sequential_rules count a sample of {counted:,} of "
      f"{sample.train_users:,} users, {len(sample.events.items):,} events"
    )
  for name, why in promise.missing.items():
    yield f"{name} is not measured: {why}"


def _filled(paragraph: str) -> str:
  return textwrap.fill(
    paragraph, _WIDTH, break_on_hyphens=False, break_long_words=False
  )
