"""What a log promises, as a table for the terminal and in plain sentences."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator

from calrec_jax.evaluate.promise import (
  METRICS,
  REFERENCE,
  SIGNALS,
  SPLIT,
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
_SMALL = 1 / 4  # Fraction of the best NDCG below which a signal tells little.
_WHAT = {
  "repeats": "users buy again what they have bought",
  "order": "what others bought next",
  "words": "texts say what goes together",
}


def format_promise(promise: Promise) -> str:
  """The table, how it was measured, and what it says, indented like a card."""
  rows = []
  signal_of = {name: key for key, names in SIGNALS.items() for name in names}
  for name in promise.values:
    label = f"{name} ({signal_of[name]})" if name in signal_of else name
    means = (mean._asdict() for mean in promise.means(name))
    rows.append([label, *map(interval, means)])
  table = grid(["", *map(metric_label, METRICS)], rows)
  blocks = [textwrap.fill(_title(promise), _WIDTH), table, *_notes(promise)]
  sentences = textwrap.fill(
    " ".join(read(promise)), _WIDTH, break_on_hyphens=False
  )
  return textwrap.indent("\n".join([*blocks, sentences]), _INDENT)


def read(promise: Promise) -> list[str]:
  """What the numbers say, as sentences."""
  signals = _signals(promise)
  above = [signal for signal in signals if signal.verdict == "+"]
  if above:
    leaders = [above[0]]
    leaders += [
      each
      for each in above[1:]
      if promise.verdict(above[0].recommender, each.recommender) == "~"
    ]
    first = _most(promise, leaders)
  else:
    leaders = []
    first = (
      f"Nothing here tells more than popularity ({_points(promise, REFERENCE)})"
      ": neither repeats nor order nor words."
    )
  rest = [signal for signal in signals if signal not in leaders]
  return [
    first,
    *(_sentence(promise, signal, leaders) for signal in rest if leaders),
    *_advice(signals, leaders),
    *_doubt(promise),
  ]


@dataclasses.dataclass(frozen=True)
class _Signal:
  """One of `SIGNALS` as measured.

  Attributes:
    name: Name of the signal.
    recommender: Its best recommender.
    ndcg: NDCG@10 of that.
    verdict: `+` where that is above popularity, see `Promise.verdict`.
  """

  name: str
  recommender: str
  ndcg: float
  verdict: str


def _signals(promise: Promise) -> list[_Signal]:
  """The signals that were measured, the best first."""
  found = []
  for name in SIGNALS:
    best = promise.best(name)
    if best is not None:
      ndcg, verdict = promise.ndcg(best), promise.verdict(best)
      found.append(_Signal(name, best, ndcg, verdict))
  return sorted(found, key=lambda signal: -signal.ndcg)


def _most(promise: Promise, leaders: list[_Signal]) -> str:
  """The sentence on the signal, or several alike, that tells most."""
  names = _joined([signal.name for signal in leaders]).capitalize()
  values = _joined([number(signal.ndcg) for signal in leaders])
  tell = "tells" if leaders[0].name == "order" else "tell"
  tell = "tell" if len(leaders) > 1 else tell
  what = _joined([_WHAT[signal.name] for signal in leaders])
  return (
    f"{names} {tell} most here ({values} against "
    f"{_points(promise, REFERENCE)} of popularity): {what}."
  )


def _sentence(promise: Promise, signal: _Signal, leaders: list[_Signal]) -> str:
  """The sentence on a signal that is not the best one."""
  tells = signal.verdict == "+"
  much = tells and signal.ndcg >= _SMALL * leaders[0].ndcg
  value = number(signal.ndcg)
  if signal.name == "words":
    alone = f"{promise.found_alone('words'):.1%} of the targets"
    if not tells:
      return f"Words promise little ({value}, no more than popularity)."
    add = "add" if much else "add a little"
    return f"Words {add} ({value}): only they find {alone}."
  if signal.name == "order":
    if not tells:
      return f"Order tells little ({value}, no more than popularity)."
    some = "something" if much else "a little"
    return f"Order tells {some} too ({value}): {_WHAT['order']}."
  if promise.rule == "not_seen":
    return "Repeats are no candidates (CANDIDATES = 'not_seen')."
  share = promise.repeated()
  had = f"{share:.1%} of the targets were in the history"
  if not share:
    return "Repeats tell nothing: no target was in its history."
  if not tells:
    return f"Repeats tell little ({value}): {had}."
  some = "something" if much else "a little"
  return f"Repeats tell {some} too ({value}): {had}."


def _advice(signals: list[_Signal], leaders: list[_Signal]) -> Iterator[str]:
  """Which kind of model has something to learn."""
  tells = {signal.name: signal.verdict == "+" for signal in signals}
  leading = {signal.name for signal in leaders}
  if not tells.get("words"):
    yield (
      "A model of item ids will matter more than one of words."
      if tells.get("order")
      else "Neither a model of words nor one of item ids has much to go by."
    )
  elif not tells.get("order"):
    yield "A model of words will matter more than one of item ids."
  elif leading == {"words"}:
    yield "A model of words will matter most, and one of item ids helps."
  elif leading == {"order"}:
    yield "A model of item ids will matter most, and one of words helps."
  else:
    yield "Models of words and of item ids both have something to learn."


def _doubt(promise: Promise) -> Iterator[str]:
  """Says so if there are too few users to tell anything apart."""
  users = len(promise.sample.histories)
  if users < 200:
    yield f"But {users} users tell little apart."


def _title(promise: Promise) -> str:
  sample = promise.sample
  users = f"{len(sample.histories):,}"
  if len(sample.histories) < sample.users:
    users += f" of {sample.users:,}"
  confidence = f"{promise.bootstrap.confidence:.0%}"
  return (
    f"what this log promises without training: {users} {SPLIT} users, "
    f"candidates: {RULE_TEXTS[promise.rule]}, [{confidence} interval]"
  )


def _notes(promise: Promise) -> Iterator[str]:
  sample = promise.sample
  counted = len(sample.events.offsets) - 1
  if counted < sample.train_users:
    yield (
      f"sequential_rules counts {counted:,} of {sample.train_users:,} users, "
      f"sampled: {len(sample.events.items):,} of their events."
    )
  for name, why in promise.missing.items():
    yield f"{name} is not measured: {why}"


def _points(promise: Promise, name: str) -> str:
  return number(promise.ndcg(name))


def _joined(parts: list[str]) -> str:
  return " and ".join(
    [", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts
  )
