"""The file of one block: one recommender's answers for consecutive users.

One row per user, readable on its own: `user_id` and the columns of a
`runs.Block`. Nothing is rounded, so that numbers from files are those that were
never on disk.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from calrec_jax.errors import InputError
from calrec_jax.evaluate.runs import Block, Call, Varied


def write_block(
  path: str | os.PathLike[str], block: Block, user_ids: Sequence[str]
) -> None:
  """Writes a block.

  Args:
    path: Path of the file.
    block: Answers for U users.
    user_ids: Ids of these users, in their order.
  """
  described: dict[str, Any] = {"calls": block.calls}
  if block.varied is not None:
    described["curve"] = block.varied._asdict()
  table = pa.table(
    {
      "user_id": pa.array(user_ids, pa.string()),
      **{name: _array(values) for name, values in block.columns.items()},
    }
  ).replace_schema_metadata({"block": json.dumps(described)})
  pq.write_table(table, path, compression="zstd")


def read_block(path: str | os.PathLike[str], user_ids: Sequence[str]) -> Block:
  """Reads a block back.

  Args:
    path: Path of the file.
    user_ids: Ids of the users that it must hold, in their order.

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
  varied = None
  if curve := described.get("curve"):
    varied = Varied(curve["setting"], tuple(curve["values"]))
  names = [name for name in table.column_names if name != "user_id"]
  columns = {name: _values(table[name]) for name in names}
  return Block(columns, varied, [Call(*call) for call in described["calls"]])


def _array(values: np.ndarray) -> pa.Array:
  """Numbers or texts, one per row, or lists of a fixed size."""
  if values.dtype == object:
    return pa.array(values, pa.string())
  if values.ndim == 1:
    return pa.array(values)
  flat = pa.array(np.ascontiguousarray(values).ravel())
  return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _values(column: pa.ChunkedArray) -> np.ndarray:
  """The values of a column, [U] or [U, K]."""
  array = column.combine_chunks()
  if pa.types.is_fixed_size_list(array.type):
    return array.flatten().to_numpy().reshape(-1, array.type.list_size)
  return array.to_numpy(zero_copy_only=False)
