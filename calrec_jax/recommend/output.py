"""Files of recommendations: JSON lines and Parquet, in parts and whole.

An answer is `{"user_id", "recommender", "items": [{"item_id", "score",
"text"}]}`, items best first. JSON lines hold one a line, Parquet one row an
item with its `rank` from 1.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from calrec_jax.errors import InputError

Answers = Sequence[dict[str, Any]]
_SCHEMA = pa.schema(
  [
    ("user_id", pa.string()),
    ("recommender", pa.string()),
    ("rank", pa.int32()),
    ("item_id", pa.string()),
    ("score", pa.float32()),
    ("text", pa.string()),
  ]
)


def writer_of(path: str | pathlib.Path) -> Callable[[Answers, str], None]:
  """What writes answers to a file, by the suffix of the path.

  Raises:
    InputError: for another suffix than `.jsonl` and `.parquet`.
  """
  return _of_suffix(path, _write_jsonl, _write_parquet)


def joiner_of(
  path: str | pathlib.Path,
) -> Callable[[Sequence[pathlib.Path], str], None]:
  """What joins files of answers to one, in their order; see `writer_of`."""
  return _of_suffix(path, _join_jsonl, _join_parquet)


def _of_suffix(path: str | pathlib.Path, jsonl: Any, parquet: Any) -> Any:
  functions = {".jsonl": jsonl, ".parquet": parquet}
  suffix = pathlib.Path(path).suffix
  if suffix not in functions:
    raise InputError(f"--output={path}: write to a .jsonl or .parquet file.")
  return functions[suffix]


def _write_jsonl(answers: Answers, path: str) -> None:
  lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in answers)
  pathlib.Path(path).write_text("".join(lines), "utf-8")


def _join_jsonl(files: Sequence[pathlib.Path], path: str) -> None:
  with open(path, "wb") as whole:
    for file in files:
      with file.open("rb") as part:
        shutil.copyfileobj(part, whole)


def _write_parquet(answers: Answers, path: str) -> None:
  rows = [
    {
      "user_id": line["user_id"],
      "recommender": line["recommender"],
      "rank": rank,
      **item,
    }
    for line in answers
    for rank, item in enumerate(line["items"], start=1)
  ]
  pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), path)


def _join_parquet(files: Sequence[pathlib.Path], path: str) -> None:
  """One file in memory at a time."""
  with pq.ParquetWriter(path, _SCHEMA) as whole:
    for file in files:
      whole.write_table(pq.read_table(file))
