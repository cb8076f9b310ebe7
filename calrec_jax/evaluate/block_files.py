"""The file of one block: one recommender's answers for consecutive users.

One row a user, readable on its own: `user_id`, `rank.RULE`, `text_rank.RULE`
and `listed.RULE` for each candidate rule, `score`, `explanation`,
`validity.SHARE`, `curve.rank` and `curve.text_rank`. Nothing is rounded, so
that numbers from files are those that were never on disk.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from calrec_jax.errors import InputError
from calrec_jax.evaluate.runs import LISTED, Block, Call, CurveRanks

_PER_RULE = {"rank": "ranks", "text_rank": "text_ranks", "listed": "listed"}


def write_block(
  path: str | os.PathLike[str], block: Block, user_ids: Sequence[str]
) -> None:
  """Writes a block.

  Args:
    path: the file.
    block: answers for U users.
    user_ids: of these users, in their order.
  """
  columns: dict[str, pa.Array] = {"user_id": pa.array(user_ids, pa.string())}
  for name, field in _PER_RULE.items():
    for rule, values in getattr(block, field).items():
      columns[f"{name}.{rule}"] = _column(values)
  columns["score"] = _column(block.scores)
  columns["explanation"] = pa.array(
    [block.explanations.get(place) for place in range(len(block))], pa.string()
  )
  for name, values in block.validity.items():
    columns[f"validity.{name}"] = pa.array(values)
  described: dict[str, Any] = {"calls": block.calls}
  if block.curve is not None:
    curve = block.curve
    columns["curve.rank"] = _column(curve.ranks.T)
    columns["curve.text_rank"] = _column(curve.text_ranks.T)
    described["curve"] = {"setting": curve.setting, "values": curve.values}
  table = pa.table(columns).replace_schema_metadata(
    {"block": json.dumps(described)}
  )
  pq.write_table(table, path, compression="zstd")


def read_block(path: str | os.PathLike[str], user_ids: Sequence[str]) -> Block:
  """Reads a block back.

  Args:
    path: the file.
    user_ids: of the users it has to hold, in their order.

  Raises:
    InputError: if the file cannot be read, or holds other users.
  """
  try:
    table = pq.read_table(path)
    described = json.loads((table.schema.metadata or {})[b"block"])
  except (pa.ArrowInvalid, KeyError, json.JSONDecodeError) as error:
    raise InputError(
      f"{path} is no block of answers ({error}). Remove it; it is made again."
    ) from error
  if table["user_id"].to_pylist() != list(user_ids):
    raise InputError(
      f"{path} holds other users than the split has there. Remove its folder; "
      "it is made again."
    )
  per_rule: dict[str, dict[str, np.ndarray]] = {
    field: {} for field in _PER_RULE.values()
  }
  validity = {}
  for column in table.column_names:
    kind, _, rest = column.partition(".")
    if kind in _PER_RULE:
      per_rule[_PER_RULE[kind]][rest] = _values(table[column])
    elif kind == "validity":
      validity[rest] = _values(table[column])
  curve = None
  if "curve" in described:
    curve = CurveRanks(
      described["curve"]["setting"],
      tuple(described["curve"]["values"]),
      _values(table["curve.rank"]).T,
      _values(table["curve.text_rank"]).T,
    )
  explanations = enumerate(table["explanation"].to_pylist())
  return Block(
    **per_rule,
    scores=_values(table["score"]).reshape(-1, LISTED),
    explanations={
      place: text for place, text in explanations if text is not None
    },
    validity=validity,
    curve=curve,
    calls=[Call(*call) for call in described["calls"]],
  )


def _column(values: np.ndarray) -> pa.Array:
  """Numbers, one a row, or lists of a fixed size."""
  if values.ndim == 1:
    return pa.array(values)
  flat = pa.array(np.ascontiguousarray(values).ravel())
  return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _values(column: pa.ChunkedArray) -> np.ndarray:
  """The numbers of a column, [U] or [U, K]; a copy that may be written to."""
  array = column.combine_chunks()
  if pa.types.is_fixed_size_list(array.type):
    size = array.type.list_size
    return array.flatten().to_numpy().reshape(-1, size).copy()
  return array.to_numpy(zero_copy_only=False).copy()
