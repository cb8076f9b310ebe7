"""Runs on the same users, compared user by user.

The difference of each user's values is averaged, and its bootstrap interval
tells more than two intervals side by side. What would make the difference
meaningless (other data, users, targets or candidates) is refused.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from calrec_jax.errors import InputError
from calrec_jax.evaluate import table
from calrec_jax.evaluate.results import (
  METRICS_FILE,
  Results,
  read_results,
  write_json,
)
from calrec_jax.evaluate.summary import named
from calrec_jax.metrics import ranking_metrics
from calrec_jax.metrics.intervals import Bootstrap

SCHEMA = 2
# What has to be equal for values of single users to mean the same.
_RULES = ("ranking", "hit", "ties", "items", "depth", "candidates")


class RunSide(NamedTuple):
  """One side of a comparison: a run, or runs of several seeds.

  Attributes:
    folders: of the runs: each holds `metrics.json` and `per_user.parquet`.
    recommender: the one that is meant; None for all that both sides have.
  """

  folders: tuple[pathlib.Path, ...]
  recommender: str | None = None

  @classmethod
  def parse(cls, text: str) -> "RunSide":
    """The side that `FOLDER[,FOLDER...][:RECOMMENDER]` means.

    Args:
      text: with the folders, or the `metrics.json` in them.
    """
    recommender = None
    folders = _folders(text)
    if folders is None and ":" in text:
      places, _, recommender = text.rpartition(":")
      folders = _folders(places) or (pathlib.Path(places).expanduser(),)
    return cls(folders or (pathlib.Path(text).expanduser(),), recommender)


def compare_runs(a: RunSide, b: RunSide) -> dict[str, Any]:
  """The paired differences a - b.

  Where a side has several runs, as of several seeds, a user's value is the
  mean over them.

  Args:
    a: runs and perhaps one of their recommenders.
    b: the runs they are compared with. Where only one side names a recommender
      the other takes the one of the same name.

  Returns:
    The content of `compare.json`, see `docs/evaluation.md`.

  Raises:
    InputError: if the runs cannot be compared; the message says why.
  """
  sides = [_read(side) for side in (a, b)]
  joined = _Joined([run for side in sides for run in side])
  first = joined.runs[0]
  pairs = []
  for pair in _pairs(a, b, sides):
    values = [
      joined.values(side, recommender)
      for side, recommender in zip(sides, pair, strict=True)
    ]
    pairs.append(_compared(pair, values, joined.metrics, joined.bootstrap))
  return {
    "schema": SCHEMA,
    "a": [_described(run) for run in sides[0]],
    "b": [_described(run) for run in sides[1]],
    "users": joined.users,
    "protocol": {
      key: first.results.protocol[key]
      for key in ("split", *_RULES, "intervals")
      if key in first.results.protocol
    },
    "pairs": pairs,
  }


def average_runs(side: RunSide) -> dict[str, dict[str, Any]]:
  """What runs of several seeds have on average.

  Args:
    side: the runs, and the recommender that is meant.

  Returns:
    By metric: the mean over runs and users with its interval over users
    (`value`, `low`, `high`), and `runs`, the mean of each.

  Raises:
    InputError: if the runs were not measured alike, or the recommender is
      missing.
  """
  runs = _read(side)
  joined = _Joined(runs)
  [(recommender, _)] = _pairs(side, side, [runs, runs])
  values = joined.values(runs, recommender)
  entries = named(joined.metrics, joined.bootstrap.means(values.mean(axis=0)))
  for entry, column in zip(
    entries.values(), np.moveaxis(values, -1, 0), strict=True
  ):
    entry["runs"] = [float(run) for run in column.mean(axis=1)]
  return entries


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
  several = [side for side in "ab" if len(comparison[side]) > 1]
  blocks = [
    "\n".join(
      f"{side.upper()}: {run['folder']}"
      for side in "ab"
      for run in comparison[side]
    )
    + f"\n{comparison['users']:,} users · {protocol['items']:,} items · "
    f"candidates: {table.RULE_TEXTS[protocol['candidates']]}"
  ]
  for pair in comparison["pairs"]:
    rows = [
      [
        table.metric_label(name),
        *(table.number(entry[side]) for side in "ab"),
        *(_spread(entry[f"{side}_runs"]) for side in several),
        f"{table.interval(entry, signed=True)} {table.verdict(entry)}",
      ]
      for name, entry in pair["metrics"].items()
    ]
    title = pair["a"]
    if pair["b"] != pair["a"]:
      title = f"{pair['a']} against {pair['b']}"
    spreads = [f"runs of {side.upper()}" for side in several]
    blocks.append(table.grid([title, "A", "B", *spreads, "A - B  "], rows))
  notes = (
    f"[low, high] is the {intervals['confidence']:.0%} bootstrap interval of "
    f"the mean difference over users, from {intervals['resamples']:,} "
    "resamples.\n"
    "+ A is better, - B is better, ~ undecided: does the interval leave out "
    "zero?"
  )
  if several:
    notes += (
      "\nOf several runs a user's value is their mean; next to it the lowest "
      "and the\nhighest run. The interval is over users, not over seeds."
    )
  return "\n\n".join([*blocks, notes])


class _Run(NamedTuple):
  folder: str
  results: Results


class _Joined:
  """Runs that were measured alike, their users in the order of the first.

  Attributes:
    runs: all of them.
    users: how many.
    metrics: those that all runs have.
    bootstrap: the one that the first run's own intervals are from.
  """

  def __init__(self, runs: Sequence[_Run]):
    """Raises ValueError, which says why, for runs that do not compare."""
    first = runs[0]
    for run in runs[1:]:
      _refuse_other_rules(first, run)
    self.runs = runs
    self._orders = {run.folder: _users_of_second(first, run) for run in runs}
    self.users = len(self._orders[first.folder])
    self.metrics = tuple(
      name
      for name in first.results.protocol["metrics"]
      if all(name in run.results.protocol["metrics"] for run in runs)
    )
    if not self.metrics:
      raise InputError(
        f"{', '.join(run.folder for run in runs)} have no metric in common."
      )
    intervals = first.results.protocol["intervals"]
    self.bootstrap = Bootstrap(
      **{key: intervals[key] for key in ("confidence", "resamples", "seed")}
    )

  def values(self, runs: Sequence[_Run], recommender: str) -> np.ndarray:
    """What a recommender has in some of the runs, float64[R, U, M]."""
    return np.stack(
      [
        _values(run.results, recommender, self.metrics)[
          self._orders[run.folder]
        ]
        for run in runs
      ]
    )


def _folders(text: str) -> tuple[pathlib.Path, ...] | None:
  """The runs of a side; None where one of them does not exist."""
  whole = pathlib.Path(text).expanduser()
  paths = [whole]
  if not whole.exists():  # A folder may have a comma in its name.
    paths = [pathlib.Path(part).expanduser() for part in text.split(",")]
  if not all(path.exists() for path in paths):
    return None
  return tuple(
    path.parent if path.name == METRICS_FILE else path for path in paths
  )


def _read(side: RunSide) -> list[_Run]:
  if len(set(side.folders)) < len(side.folders):
    raise InputError(
      f"{', '.join(map(str, side.folders))}: a run appears twice."
    )
  return [_Run(str(folder), read_results(folder)) for folder in side.folders]


def _compared(
  pair: tuple[str, str],
  values: Sequence[np.ndarray],
  names: tuple[str, ...],
  bootstrap: Bootstrap,
) -> dict[str, Any]:
  """An entry of `pairs`; `values` are those of the runs of either side."""
  a, b = (side.mean(axis=0) for side in values)
  entries = named(names, bootstrap.differences(a, b))
  for place, entry in enumerate(entries.values()):
    for key, side in zip("ab", values, strict=True):
      runs = side[:, :, place].mean(axis=1)
      entry[key] = float(runs.mean())
      entry[f"{key}_runs"] = [float(run) for run in runs]
  return {"a": pair[0], "b": pair[1], "metrics": entries}


def _spread(runs: Sequence[float]) -> str:
  return f"{table.number(min(runs))}-{table.number(max(runs))}"


def _refuse_other_rules(one: _Run, other: _Run) -> None:
  where = one.folder, other.folder
  first, second = one.results.protocol, other.results.protocol
  keys = [key for key in ("split", *_RULES) if key in first and key in second]
  differing = [
    f"{key}: {first[key]!r} and {second[key]!r}"
    for key in keys
    if first[key] != second[key]
  ]
  hashes = [_data_hashes(run.results) for run in (one, other)]
  differing += [
    f"data, {key}: sha256 {hashes[0][key][:12]} and {hashes[1][key][:12]}"
    for key in hashes[0].keys() & hashes[1].keys()
    if hashes[0][key] != hashes[1][key]
  ]
  if differing:
    raise InputError(
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


def _users_of_second(one: _Run, other: _Run) -> np.ndarray:
  """Where the second run has each user of the first, int[U]."""
  where = one.folder, other.folder
  found = one.results, other.results
  ids = [results.users["user_id"] for results in found]
  for users, folder in zip(ids, where, strict=True):
    if len(set(users)) < len(users):
      raise InputError(
        f"{folder} has several rows for one user, so users cannot be joined."
      )
  place = {user: number for number, user in enumerate(ids[1])}
  missing = [user for user in ids[0] if user not in place]
  extra = len(ids[1]) - (len(ids[0]) - len(missing))
  if missing or extra:
    other = missing[0] if missing else next(iter(set(ids[1]) - set(ids[0])))
    raise InputError(
      f"{len(missing)} users of {where[0]} are missing in {where[1]}, and "
      f"{extra} the other way round, user {other!r} among them. Evaluate "
      "both with the same Evaluation.users and Evaluation.seed."
    )
  order = np.array([place[user] for user in ids[0]], np.int64)
  targets = [np.array(results.users["item_id"]) for results in found]
  differing = np.flatnonzero(targets[0] != targets[1][order])
  if len(differing):
    user = int(differing[0])
    raise InputError(
      f"{len(differing)} users have another target in {where[1]} than in "
      f"{where[0]}: user {ids[0][user]!r} {targets[1][order][user]!r} rather "
      f"than {targets[0][user]!r}."
    )
  return order


def _pairs(
  a: RunSide, b: RunSide, sides: Sequence[Sequence[_Run]]
) -> list[tuple[str, str]]:
  known = [
    [
      name
      for name in side[0].results.recommenders
      if all(name in run.results.recommenders for run in side)
    ]
    for side in sides
  ]
  where = [", ".join(run.folder for run in side) for side in sides]
  if a.recommender or b.recommender:
    pairs = [
      (a.recommender or str(b.recommender), b.recommender or str(a.recommender))
    ]
  else:
    pairs = [(name, name) for name in known[0] if name in known[1]]
  if not pairs:
    raise InputError(
      f"{where[0]} has {', '.join(known[0])}, {where[1]} has "
      f"{', '.join(known[1])}: none in common. Name one of each, as "
      f"{sides[0][0].folder}:{next(iter(known[0]), 'dense')}."
    )
  for name, recommenders, place in zip(pairs[0], known, where, strict=True):
    if name not in recommenders:
      raise InputError(
        f"{place} has no recommender {name!r}; it has "
        f"{', '.join(recommenders)}."
      )
  return pairs


def _values(results: Results, name: str, names: tuple[str, ...]) -> np.ndarray:
  """Every metric of every user, float64[U, M]."""
  rule = results.protocol["candidates"]
  return ranking_metrics.user_values(
    names, results.ranks[name][rule], results.text_ranks[name][rule]
  )


def _described(run: _Run) -> dict[str, Any]:
  return {
    "folder": run.folder,
    "checkpoint": run.results.checkpoint,
    "data": {"hashes": _data_hashes(run.results)},
  }
