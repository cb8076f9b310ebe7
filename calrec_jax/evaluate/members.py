"""What each member of a fusion brought, in words.

The numbers are those of the users who chose the weights, see `Fused.details`;
where members were evaluated themselves the fusion is compared with them too.
The same sentences are printed and stand in the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calrec_jax.evaluate.results import Results
from calrec_jax.evaluate.summary import compare
from calrec_jax.evaluate.wording import interval, metric_label, number, verdict

Record = Mapping[str, Any]

_GLOSSES = {
  "dense": "the text model",
  "generate": "texts that the text model writes",
  "constrained": "item texts that the text model writes",
  "sasrec": "the model of item ids",
  "sequential_rules": "what others bought next",
  "own_most_frequent": "what the user buys most often",
  "last_item": "the user's own items, the latest first",
  "bm25_last_item": "items with words of the last one",
  "bm25_history": "items with words of the history",
  "popularity": "what is bought most",
}
_TEXT_MODELS = ("dense", "generate", "constrained")
_SURE = {"+": "better", "-": "worse", "~": "undecided"}


def fusions(results: Results) -> dict[str, Record]:
  """The recommenders that join others, by name.

  Results of earlier releases know no members.
  """
  return {
    name: entry
    for name, entry in results.recommenders.items()
    if entry.get("members")
  }


def gloss(name: str) -> str:
  """What a member goes by, human-readable; "" for one of the user's own."""
  return _GLOSSES.get(name, "")


def sentences(results: Results, name: str) -> list[str]:
  """What is to be said of a fusion, the weights first.

  Args:
    results: Evaluation, fresh or read back.
    name: Name of the fusion, out of `fusions`.
  """
  entry = results.recommenders[name]
  said = [_weights(name, entry), *_brought(entry), *_text_models(entry)]
  return [*said, *_evaluated_here(results, name)]


def _weights(name: str, entry: Record) -> str:
  """What is joined, and what is not."""
  joined = ", ".join(
    f"{member['name']} {member['weight']:g}" for member in _joined(entry)
  )
  said = f"{name} joins {joined} (weights {entry['weights']})"
  if out := _left_out(entry):
    names = ", ".join(member["name"] for member in out)
    said += f" · left out, since no weight helped beyond chance: {names}"
  return f"{said}."


def _brought(entry: Record) -> list[str]:
  """What is lost without the most useful member, and what that one is alone."""
  chosen_by = entry.get("chosen_by")
  if chosen_by is None:
    return []
  metric = metric_label(chosen_by["metric"])
  value = chosen_by["value"]["value"]
  most = max(_joined(entry), key=lambda member: member["brings"]["value"])
  best = max(entry["members"], key=lambda member: member["alone"]["value"])
  lost = most["brings"]["value"]
  said = f"On these users {metric} is {number(value)}. "
  if lost > 0:
    said += f"Without {_called(most)} it falls most, to {number(value - lost)}."
  else:
    said += "It is as high without any one of the members."
  called = best["name"] if best == most and lost > 0 else _called(best)
  said += (
    f" The best member alone, {called}, reaches "
    f"{number(best['alone']['value'])}; the fusion minus it is "
    f"{_judged(best['ahead'])}."
  )
  return [said]


def _text_models(entry: Record) -> list[str]:
  """What the language model brings, or that it was left out."""
  said = []
  own = [m for m in entry["members"] if m["name"] in _TEXT_MODELS]
  for member in own:
    name = _called(member)
    name = name[:1].upper() + name[1:]
    if not member["weight"]:
      said.append(f"{name} was left out.")
    elif member.get("brings"):
      said.append(f"{name} brings {_judged(member['brings'])}.")
  if own and not any(member["weight"] for member in own):
    said.append(
      "The fused lists of this domain do not use the text model, except to "
      "fill up lists that are too short."
    )
  return [" ".join(said)] if said else []


def _evaluated_here(results: Results, name: str) -> list[str]:
  """The fusion beside the best of its members that were evaluated too."""
  entries, metric = results.recommenders, results.protocol["compared"]
  rivals = [
    member
    for member in entries[name]["members"]
    if member["name"] in entries and member["name"] != name
  ]
  if not rivals:
    return []

  def quality(member: Record) -> float:
    return entries[member["name"]]["metrics"][metric]["value"]

  best = max(rivals, key=quality)
  difference = compare(results, name, best["name"])
  said = (
    f"On the {results.protocol['users']:,} users evaluated here {name} minus "
    f"{_called(best)}, the best of its members that were evaluated, is "
    f"{_judged(difference)} in {metric_label(metric)}."
  )
  if verdict(difference) == "-":
    said += f" {best['name']} alone is the better choice for such users."
  return [said]


def _joined(entry: Record) -> Sequence[Record]:
  return [member for member in entry["members"] if member["weight"]]


def _left_out(entry: Record) -> Sequence[Record]:
  return [member for member in entry["members"] if not member["weight"]]


def _called(member: Record) -> str:
  """A member in a sentence, as in "the text model (dense)"."""
  name = member["name"]
  if name == "dense":
    return f"{gloss(name)} ({name})"
  return f"{name} ({gloss(name)})" if gloss(name) else name


def _judged(difference: Record) -> str:
  """`+.0012 [-.0001, +.0025]: undecided`."""
  return f"{interval(difference, signed=True)}: {_SURE[verdict(difference)]}"
