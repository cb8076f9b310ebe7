"""Files of recommendations: JSON lines and Parquet, in parts and whole.

An answer is `{"user_id", "recommender", "reason", "items": [{"item_id",
"score", "text"}]}`, items best first. `reason` says why it is not an answer
from all that the user bought, and is null if it is. JSON lines hold one answer
per line, Parquet one row per item with its `rank` from 1; an answer without an
item is a row of nulls.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from calrec_jax.errors import InputError

_SCHEMA = pa.schema(
  [
    ("user_id", pa.string()),
    ("recommender", pa.string()),
    ("rank", pa.int32()),
    ("item_id", pa.string()),
    ("score", pa.float32()),
    ("text", pa.string()),
    ("reason", pa.string()),
  ]
)


def check_suffix(path: str | pathlib.Path) -> str:
  """The suffix of a path, which is that of one of the two formats."""
  suffix = pathlib.Path(path).suffix
  if suffix not in (".jsonl", ".parquet"):
    raise InputError(f"--output={path}: write to a .jsonl or .parquet file.")
  return suffix


def write(answers: Sequence[dict[str, Any]], path: str, suffix: str) -> None:
  """Writes answers to a file, in the format of a suffix."""
  if suffix == ".jsonl":
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in answers)
    pathlib.Path(path).write_text("".join(lines), "utf-8")
    return
  keys = ("user_id", "recommender", "reason")
  rows = [
    {**{key: line[key] for key in keys}, "rank": rank, **item}
    for line in answers
    for rank, item in (
      enumerate(line["items"], start=1) if line["items"] else [(None, {})]
    )
  ]
  pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), path)


def join(files: Sequence[pathlib.Path], path: str, suffix: str) -> None:
  """Joins files of answers to one, in their order, a file in memory at a time.

  Args:
    files: Files that `write` wrote.
    path: Path of the whole file.
    suffix: Suffix of their format.
  """
  if suffix == ".jsonl":
    with open(path, "wb") as whole:
      for file in files:
        with file.open("rb") as part:
          shutil.copyfileobj(part, whole)
    return
  with pq.ParquetWriter(path, _SCHEMA) as whole:
    for file in files:
      whole.write_table(pq.read_table(file))
