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
from calrec_jax.evaluate import table, wording
from calrec_jax.evaluate.results import (
  METRICS_FILE,
  Results,
  read_results,
  write_json,
)
from calrec_jax.evaluate.summary import bootstrap_of, named

SCHEMA = 2
# What has to be equal for values of single users to mean the same.
_RULES = ("split", "ranking", "hit", "ties", "items", "depth", "candidates")


class RunSide(NamedTuple):
  """One side of a comparison: a run, or runs of several seeds.

  Attributes:
    folders: Folders of the runs, with `metrics.json` and `per_user.parquet`.
    recommender: Name of a recommender; None for all that both sides have.
  """

  folders: tuple[pathlib.Path, ...]
  recommender: str | None = None

  @classmethod
  def parse(cls, text: str) -> "RunSide":
    """The side `FOLDER[,FOLDER...][:RECOMMENDER]`, or `metrics.json` files."""
    recommender = None
    folders = _folders(text)
    if folders is None and ":" in text:
      before, _, recommender = text.rpartition(":")
      folders = _folders(before) or (pathlib.Path(before).expanduser(),)
    return cls(folders or (pathlib.Path(text).expanduser(),), recommender)


def compare_runs(a: RunSide, b: RunSide) -> dict[str, Any]:
  """The paired differences a - b.

  Where a side has several runs, as of several seeds, a user's value is the
  mean over them.

  Args:
    a: Runs and perhaps one of their recommenders.
    b: Runs they are compared with. Where only one side names a recommender, the
      other takes the one of the same name.

  Returns:
    The content of `compare.json`, see `docs/evaluation.md`.

  Raises:
    InputError: if the runs cannot be compared; the message says why.
  """
  sides = [_read(side) for side in (a, b)]
  joined = _Joined([run for side in sides for run in side])
  pairs = []
  for pair in _pairs(a, b, sides):
    values = [joined.values(*of) for of in zip(sides, pair, strict=True)]
    means = [side.mean(axis=0) for side in values]
    entries = named(joined.metrics, joined.bootstrap.differences(*means))
    for key, side in zip("ab", values, strict=True):
      for entry, runs in zip(entries.values(), _run_means(side), strict=True):
        entry[key] = float(np.mean(runs))
        entry[f"{key}_runs"] = runs
    pairs.append({"a": pair[0], "b": pair[1], "metrics": entries})
  protocol = joined.first.protocol
  described = [
    [
      {
        "folder": run.folder,
        "checkpoint": run.results.checkpoint,
        "data": {"hashes": _data_hashes(run.results)},
      }
      for run in side
    ]
    for side in sides
  ]
  return {
    "schema": SCHEMA,
    "a": described[0],
    "b": described[1],
    "users": joined.users,
    "protocol": {
      key: protocol[key] for key in (*_RULES, "intervals") if key in protocol
    },
    "pairs": pairs,
  }


def average_runs(side: RunSide) -> dict[str, dict[str, Any]]:
  """What runs of several seeds have on average.

  Args:
    side: Runs, and one of their recommenders.

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
  for entry, means in zip(entries.values(), _run_means(values), strict=True):
    entry["runs"] = means
  return entries


def write_comparison(
  path: pathlib.Path, comparison: dict[str, Any]
) -> pathlib.Path:
  """Writes what `compare_runs` returned, atomically; returns the path.

  Args:
    path: Path of the file, or of a folder that gets `compare.json`.
    comparison: What `compare_runs` returned.
  """
  if path.suffix != ".json":
    path = path / "compare.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  write_json(path, comparison)
  return path


def format_comparison(comparison: dict[str, Any]) -> str:
  """The differences as a table for the terminal."""
  protocol = comparison["protocol"]

  def spread(runs: Sequence[float]) -> str:
    return f"{wording.number(min(runs))}-{wording.number(max(runs))}"

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
        wording.metric_label(name),
        *(wording.number(entry[side]) for side in "ab"),
        *(spread(entry[f"{side}_runs"]) for side in several),
        f"{wording.interval(entry, signed=True)} {wording.verdict(entry)}",
      ]
      for name, entry in pair["metrics"].items()
    ]
    title = pair["a"]
    if pair["b"] != pair["a"]:
      title = f"{pair['a']} against {pair['b']}"
    spreads = [f"runs of {side.upper()}" for side in several]
    blocks.append(table.grid([title, "A", "B", *spreads, "A - B  "], rows))
  intervals = protocol["intervals"]
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
    first: Results of the first run.
    users: Number of users, U.
    metrics: Names of the metrics that all runs have.
    bootstrap: Bootstrap that the first run's own intervals are from.
  """

  def __init__(self, runs: Sequence[_Run]):
    """Raises InputError, which says why, for runs that do not compare."""
    for run in runs[1:]:
      _refuse_other_rules(runs[0], run)
    self.first = runs[0].results
    self._orders = {run.folder: _order(runs[0], run) for run in runs}
    self.users = len(self.first.users["user_id"])
    self.metrics = tuple(
      name
      for name in self.first.protocol["metrics"]
      if all(name in run.results.protocol["metrics"] for run in runs)
    )
    if not self.metrics:
      raise InputError(
        f"{', '.join(run.folder for run in runs)} have no metric in common."
      )
    self.bootstrap = bootstrap_of(self.first)

  def values(self, runs: Sequence[_Run], recommender: str) -> np.ndarray:
    """A recommender's metrics in some of the runs, float64[R, U, M]."""
    parts = []
    for run in runs:
      values = run.results.user_values(recommender, self.metrics)
      parts.append(values[self._orders[run.folder]])
    return np.stack(parts)


def _run_means(values: np.ndarray) -> list[list[float]]:
  """Means over users of float64[R, U, M], by metric and run."""
  return [
    values[:, :, metric].mean(axis=1).tolist()
    for metric in range(values.shape[2])
  ]


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


def _refuse_other_rules(one: _Run, other: _Run) -> None:
  first, second = one.results.protocol, other.results.protocol
  differing = [
    f"{key}: {first[key]!r} and {second[key]!r}"
    for key in _RULES
    if key in first and key in second and first[key] != second[key]
  ]
  mine, theirs = _data_hashes(one.results), _data_hashes(other.results)
  differing += [
    f"data, {key}: sha256 {mine[key][:12]} and {theirs[key][:12]}"
    for key in mine.keys() & theirs.keys()
    if mine[key] != theirs[key]
  ]
  if differing:
    raise InputError(
      f"{one.folder} and {other.folder} were not measured alike, so their "
      "difference would mean nothing:\n  " + "\n  ".join(sorted(differing))
    )


def _data_hashes(results: Results) -> dict[str, str]:
  """Hashes of the purchases; texts may differ between runs that compare."""
  outputs = results.data.get("outputs") or {}
  split = results.protocol.get("split", "test")
  return {
    key: str(outputs[key]) for key in ("train", split) if outputs.get(key)
  }


def _order(one: _Run, other: _Run) -> np.ndarray:
  """Index in the second run of each user of the first, int[U]."""
  ids, others = (run.results.users["user_id"] for run in (one, other))
  for run, users in ((one, ids), (other, others)):
    if len(set(users)) < len(users):
      raise InputError(
        f"{run.folder} has several rows for one user, so users cannot be "
        "joined."
      )
  index = {user: number for number, user in enumerate(others)}
  missing = [user for user in ids if user not in index]
  extra = sorted(index.keys() - set(ids))
  if missing or extra:
    raise InputError(
      f"{len(missing)} users of {one.folder} are missing in {other.folder}, "
      f"and {len(extra)} the other way round, user {[*missing, *extra][0]!r} "
      "among them. Evaluate both with the same Evaluation.users and "
      "Evaluation.seed."
    )
  order = np.array([index[user] for user in ids], np.int64)
  target = np.array(one.results.users["item_id"])
  other_target = np.array(other.results.users["item_id"])[order]
  differing = np.flatnonzero(target != other_target)
  if len(differing):
    user = int(differing[0])
    raise InputError(
      f"{len(differing)} users have another target in {other.folder} than in "
      f"{one.folder}: user {ids[user]!r} {other_target[user]!r} rather than "
      f"{target[user]!r}."
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
  for name, names, folders in zip(pairs[0], known, where, strict=True):
    if name not in names:
      raise InputError(
        f"{folders} has no recommender {name!r}; it has {', '.join(names)}."
      )
  return pairs
