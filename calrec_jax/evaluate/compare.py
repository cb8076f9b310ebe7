"""Two runs on the same users, compared user by user.

The difference of each user's values is averaged, and its bootstrap interval
tells more than two intervals side by side. What would make the difference
meaningless (other data, users, targets or candidates) is refused.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from calrec_jax.evaluate import metrics, table
from calrec_jax.evaluate.intervals import Bootstrap
from calrec_jax.evaluate.results import (
  METRICS_FILE,
  Results,
  read_results,
  write_json,
)
from calrec_jax.evaluate.summary import named

SCHEMA = 1
# What has to be equal for values of single users to mean the same.
_RULES = ("ranking", "hit", "ties", "items", "depth", "candidates")


class RunSide(NamedTuple):
  """One side of a comparison.

  Attributes:
    folder: of the run: holds `metrics.json` and `per_user.parquet`.
    recommender: the one that is meant; None for all that both runs have.
  """

  folder: pathlib.Path
  recommender: str | None = None

  @classmethod
  def parse(cls, text: str) -> "RunSide":
    """The side that `FOLDER` or `FOLDER:RECOMMENDER` means.

    Args:
      text: with the folder, or the `metrics.json` in it.
    """
    path, recommender = pathlib.Path(text).expanduser(), None
    if not path.exists() and ":" in text:
      place, _, recommender = text.rpartition(":")
      path = pathlib.Path(place).expanduser()
    return cls(path.parent if path.name == METRICS_FILE else path, recommender)


def compare_runs(a: RunSide, b: RunSide) -> dict[str, Any]:
  """The paired differences a - b.

  Args:
    a: a run and perhaps one of its recommenders.
    b: the run it is compared with. Where only one side names a recommender
      the other takes the one of the same name.

  Returns:
    The content of `compare.json`, see `docs/evaluation.md`.

  Raises:
    ValueError: if the runs cannot be compared; the message says why.
  """
  found = [read_results(side.folder) for side in (a, b)]
  where = [str(side.folder) for side in (a, b)]
  _refuse_other_rules(found, where)
  order = _users_of_second(found, where)
  names = tuple(
    name
    for name in found[0].protocol["metrics"]
    if name in found[1].protocol["metrics"]
  )
  if not names:
    raise ValueError(f"{where[0]} and {where[1]} have no metric in common.")
  intervals = found[0].protocol["intervals"]
  bootstrap = Bootstrap(
    **{key: intervals[key] for key in ("confidence", "resamples", "seed")}
  )
  pairs = []
  for first, second in _pairs(a, b, found):
    values = _values(found[0], first, names)
    others = _values(found[1], second, names)[order]
    pairs.append(
      {
        "a": first,
        "b": second,
        "metrics": {
          name: {"a": float(mean), "b": float(other), **difference}
          for (name, difference), mean, other in zip(
            named(names, bootstrap.differences(values, others)).items(),
            values.mean(axis=0),
            others.mean(axis=0),
            strict=True,
          )
        },
      }
    )
  return {
    "schema": SCHEMA,
    "a": _described(where[0], found[0]),
    "b": _described(where[1], found[1]),
    "users": len(order),
    "protocol": {
      key: found[0].protocol[key]
      for key in ("split", *_RULES, "intervals")
      if key in found[0].protocol
    },
    "pairs": pairs,
  }


def write_comparison(
  path: pathlib.Path, comparison: dict[str, Any]
) -> pathlib.Path:
  """Writes `compare.json`, atomically.

  Args:
    path: the file, or a folder that gets `compare.json`.
    comparison: what `compare_runs` returned.

  Returns:
    The path of the file.
  """
  if path.suffix != ".json":
    path = path / "compare.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  write_json(path, comparison)
  return path


def format_comparison(comparison: dict[str, Any]) -> str:
  """The differences as a table for the terminal."""
  protocol = comparison["protocol"]
  intervals = protocol["intervals"]
  blocks = [
    f"A: {comparison['a']['folder']}\nB: {comparison['b']['folder']}\n"
    f"{comparison['users']:,} users · {protocol['items']:,} items · "
    f"candidates: {table.RULE_TEXTS[protocol['candidates']]}"
  ]
  for pair in comparison["pairs"]:
    rows = [
      [
        table.metric_label(name),
        table.number(entry["a"]),
        table.number(entry["b"]),
        f"{table.interval(entry, signed=True)} {table.verdict(entry)}",
      ]
      for name, entry in pair["metrics"].items()
    ]
    title = pair["a"]
    if pair["b"] != pair["a"]:
      title = f"{pair['a']} against {pair['b']}"
    blocks.append(table.grid([title, "A", "B", "A - B  "], rows))
  blocks.append(
    f"[low, high] is the {intervals['confidence']:.0%} bootstrap interval of "
    f"the mean difference over users, from {intervals['resamples']:,} "
    "resamples.\n"
    "+ A is better, - B is better, ~ undecided: does the interval leave out "
    "zero?"
  )
  return "\n\n".join(blocks)


def _refuse_other_rules(found: Sequence[Results], where: list[str]) -> None:
  first, second = (results.protocol for results in found)
  keys = [key for key in ("split", *_RULES) if key in first and key in second]
  differing = [
    f"{key}: {first[key]!r} and {second[key]!r}"
    for key in keys
    if first[key] != second[key]
  ]
  hashes = [_data_hashes(results) for results in found]
  differing += [
    f"data, {key}: sha256 {hashes[0][key][:12]} and {hashes[1][key][:12]}"
    for key in hashes[0].keys() & hashes[1].keys()
    if hashes[0][key] != hashes[1][key]
  ]
  if differing:
    raise ValueError(
      f"{where[0]} and {where[1]} were not measured alike, so their difference "
      "would mean nothing:\n  " + "\n  ".join(sorted(differing))
    )


def _data_hashes(results: Results) -> dict[str, str]:
  """Hashes of the purchases; texts may differ between runs that compare."""
  outputs = results.data.get("outputs") or {}
  split = results.protocol.get("split", "test")
  return {
    key: str(outputs[key]) for key in ("train", split) if outputs.get(key)
  }


def _users_of_second(found: Sequence[Results], where: list[str]) -> np.ndarray:
  """Where the second run has each user of the first, int[U]."""
  ids = [results.users["user_id"] for results in found]
  for users, folder in zip(ids, where, strict=True):
    if len(set(users)) < len(users):
      raise ValueError(
        f"{folder} has several rows for one user, so users cannot be joined."
      )
  place = {user: number for number, user in enumerate(ids[1])}
  missing = [user for user in ids[0] if user not in place]
  further = len(ids[1]) - (len(ids[0]) - len(missing))
  if missing or further:
    other = missing[0] if missing else next(iter(set(ids[1]) - set(ids[0])))
    raise ValueError(
      f"{len(missing)} users of {where[0]} are missing in {where[1]}, and "
      f"{further} the other way round, user {other!r} among them. Evaluate "
      "both with the same Evaluation.users and Evaluation.seed."
    )
  order = np.array([place[user] for user in ids[0]], np.int64)
  targets = [np.array(results.users["item_id"]) for results in found]
  differing = np.flatnonzero(targets[0] != targets[1][order])
  if len(differing):
    user = int(differing[0])
    raise ValueError(
      f"{len(differing)} users have another target in {where[1]} than in "
      f"{where[0]}: user {ids[0][user]!r} {targets[1][order][user]!r} rather "
      f"than {targets[0][user]!r}."
    )
  return order


def _pairs(
  a: RunSide, b: RunSide, found: Sequence[Results]
) -> list[tuple[str, str]]:
  known = [results.recommenders for results in found]
  if a.recommender or b.recommender:
    pairs = [
      (a.recommender or str(b.recommender), b.recommender or str(a.recommender))
    ]
  else:
    pairs = [(name, name) for name in known[0] if name in known[1]]
  if not pairs:
    raise ValueError(
      f"{a.folder} has {', '.join(known[0])}, {b.folder} has "
      f"{', '.join(known[1])}: none in common. Name one of each, as "
      f"{a.folder}:{next(iter(known[0]))}."
    )
  for name, recommenders, side in (
    (pairs[0][0], known[0], a),
    (pairs[0][1], known[1], b),
  ):
    if name not in recommenders:
      raise ValueError(
        f"{side.folder} has no recommender {name!r}; it has "
        f"{', '.join(recommenders)}."
      )
  return pairs


def _values(results: Results, name: str, names: tuple[str, ...]) -> np.ndarray:
  """Every metric of every user, float64[U, M]."""
  rule = results.protocol["candidates"]
  return metrics.user_values(
    names, results.ranks[name][rule], results.text_ranks[name][rule]
  )


def _described(folder: str, results: Results) -> dict[str, Any]:
  return {
    "folder": folder,
    "checkpoint": results.checkpoint,
    "data": {"hashes": _data_hashes(results)},
  }
