"""Results of an evaluation, and the files they are saved in.

`metrics.json` holds the numbers, `per_user.parquet` every user's rank under
every recommender and rule, `cases.json` a few users in full. Each file appears
whole or not at all. The schemas are documented in `docs/evaluation.md`.
"""

import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from calrec_jax.errors import InputError
from calrec_jax.metrics import ranking_metrics
from calrec_jax.storage import atomic

SCHEMA = 1
METRICS_FILE = "metrics.json"
PER_USER_FILE = "per_user.parquet"
CASES_FILE = "cases.json"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Results:
  """Everything an evaluation found.

  Attributes:
    protocol: Rules under which the numbers hold.
    data: Card of the dataset.
    checkpoint: Lineage of the model.
    recommenders: Numbers by recommender.
    users: Columns that describe the users.
    excluded: bool[U] for each rule, users whose target is no candidate.
    ranks: float64[U] by recommender and rule, infinity for a miss.
    text_ranks: The same where any item with the target's text counts.
    cases: A few users in full.
  """

  protocol: dict[str, Any]
  data: dict[str, Any]
  checkpoint: dict[str, Any]
  recommenders: dict[str, dict[str, Any]]
  users: dict[str, Any]
  excluded: dict[str, np.ndarray]
  ranks: dict[str, dict[str, np.ndarray]]
  text_ranks: dict[str, dict[str, np.ndarray]]
  cases: list[dict[str, Any]]

  def user_values(self, name: str, metrics: tuple[str, ...]) -> np.ndarray:
    """Metrics of every user by a recommender's headline, float64[U, M]."""
    rule = self.protocol["candidates"]
    return ranking_metrics.user_values(
      metrics, self.ranks[name][rule], self.text_ranks[name][rule]
    )

  def metrics(self) -> dict[str, Any]:
    """The content of `metrics.json`; fractions, not percent."""
    return {
      "schema": SCHEMA,
      "protocol": self.protocol,
      "data": self.data,
      "checkpoint": self.checkpoint,
      "recommenders": self.recommenders,
    }


def write_results(
  folder: str | os.PathLike[str], results: Results
) -> dict[str, pathlib.Path]:
  """Writes `metrics.json`, `per_user.parquet` and `cases.json`, atomically.

  Args:
    folder: Folder of the files, created if missing; older ones are replaced.
    results: Results to write.

  Returns:
    The path of each file, by its name.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  paths = {
    name: folder / name for name in (PER_USER_FILE, CASES_FILE, METRICS_FILE)
  }
  table = per_user_table(results)
  # Last, since its presence says that the evaluation is finished.
  with atomic.replacing(paths[PER_USER_FILE]) as part:
    pq.write_table(table, part, compression="zstd")
  write_json(paths[CASES_FILE], results.cases)
  write_json(paths[METRICS_FILE], results.metrics())
  return paths


def read_results(folder: str | os.PathLike[str]) -> Results:
  """Reads back what `write_results` wrote.

  Raises:
    InputError: if the files have another schema.
  """
  folder = pathlib.Path(folder)
  if not (folder / METRICS_FILE).exists():
    raise InputError(_without_results(folder))
  numbers = json.loads((folder / METRICS_FILE).read_text("utf-8"))
  if numbers.get("schema") != SCHEMA:
    raise InputError(
      f"{folder / METRICS_FILE} has schema {numbers.get('schema')}; this "
      f"version reads {SCHEMA}. Evaluate again with `calrec eval`."
    )
  cases, cases_file = [], folder / CASES_FILE
  if cases_file.exists():  # It shows single users; not saved everywhere.
    cases = json.loads(cases_file.read_text("utf-8"))
  table = pq.read_table(folder / PER_USER_FILE)
  del numbers["schema"]
  return Results(**numbers, **_columns(table), cases=cases)


def _without_results(folder: pathlib.Path) -> str:
  """Why there are no results in a folder, and what to do."""
  found = sorted(
    str(path.parent)
    for pattern in ("*", "*/*", "*/*/*")
    for path in folder.glob(f"{pattern}/{METRICS_FILE}")
  )
  if found:
    return f"{folder} holds no {METRICS_FILE}. Give {' or '.join(found[:5])}."
  there = "does not exist" if not folder.exists() else "holds no results"
  return (
    f"{folder} {there}: evaluate that run first, by `calrec eval` with its gin "
    f"files and flags, and give the folder of its {METRICS_FILE}."
  )


def per_user_table(results: Results) -> pa.Table:
  """One row per recommender, candidate rule and user."""
  users = {key: pa.array(column) for key, column in results.users.items()}
  parts = []
  for name, by_rule in results.ranks.items():
    for rule, ranks in by_rule.items():
      text = results.text_ranks[name][rule]
      columns = {
        "recommender": _repeated(name, len(ranks)),
        "candidates": _repeated(rule, len(ranks)),
        **users,
        "target_excluded": pa.array(results.excluded[rule]),
        "rank": pa.array(ranks, pa.float32(), mask=np.isinf(ranks)),
        "text_rank": pa.array(text, pa.float32(), mask=np.isinf(text)),
      }
      parts.append(pa.table(columns))
  table = pa.concat_tables(parts).unify_dictionaries()
  return table.replace_schema_metadata({"schema": str(SCHEMA)})


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes a JSON file atomically.

  Raises:
    InputError: for a number that JSON does not have, such as NaN.
  """
  text = json.dumps(
    content, indent=1, ensure_ascii=False, allow_nan=False, default=plain
  )
  atomic.write_text(path, text + "\n")


def plain(value: Any) -> Any:
  """What JSON holds instead of a NumPy value or a path."""
  if isinstance(value, np.generic | np.ndarray):
    return value.tolist()
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if isinstance(value, Mapping):
    return dict(value)
  raise InputError(f"{type(value).__name__} has no place in a result file")


def _repeated(value: str, times: int) -> pa.DictionaryArray:
  return pa.DictionaryArray.from_arrays(
    pa.array(np.zeros(times, np.int32)), pa.array([value])
  )


def _columns(table: pa.Table) -> dict[str, Any]:
  """The per-user parts of `Results` from the rows of the file."""
  found: dict[str, Any] = {"excluded": {}, "ranks": {}, "text_ranks": {}}
  names = table["recommender"].to_numpy()
  rules = table["candidates"].to_numpy()
  changes = (names[1:] != names[:-1]) | (rules[1:] != rules[:-1])
  starts = [0, *(np.flatnonzero(changes) + 1), len(names)]
  for start, stop in itertools.pairwise(starts):
    name, rule = str(names[start]), str(rules[start])
    part = table.slice(start, stop - start)
    for field, column in (("ranks", "rank"), ("text_ranks", "text_rank")):
      ranks = part[column].to_numpy().astype(np.float64)
      ranks[np.isnan(ranks)] = np.inf
      found[field].setdefault(name, {})[rule] = ranks
    found["excluded"][rule] = part["target_excluded"].to_numpy()
  # The first part describes the same users as every other.
  part = table.slice(0, starts[1])
  text = ("user_id", "item_id")
  numbers = ("history_length", "target_train_events", "target_in_history")
  found["users"] = {
    **{key: part[key].to_pylist() for key in text},
    **{key: part[key].to_numpy() for key in numbers},
  }
  return found
