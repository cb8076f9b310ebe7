"""Amazon's product metadata: title, category, brand and price by item."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute defines its functions at run time.)

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.columns import id_codes
from calrec_jax.data.logs.json import python_literals, row_stream
from calrec_tasks import amazon_releases, amazon_reviews

COLUMNS = ("title", "category", "brand", "price")

# A tag, unlike `<3` or `size < 5`.
_TAG = "</?[a-zA-Z][^<>]*>|<!--[^<>]*-->"
# Pages of which the crawl took JavaScript for the title: the publisher's
# notebook of 2018 finds them by this word and drops them.
_PROGRAM = "getTime"
_NO_PRICE = pa.array(["none", "null", "nan", "n/a", "-", "\u2013", "\u2014"])


def read(
  path: str,
  release: amazon_releases.Release,
  columns: Sequence[str],
  wanted: pa.Array,
  problems: problems_lib.Problems,
) -> tuple[events_lib.Items, np.ndarray]:
  """Reads the metadata of the purchased items.

  Other items cannot be in a catalogue; they are skipped, so that they take no
  memory.

  Args:
    path: File of JSON lines, Python literals or Parquet.
    release: Release that defines the columns.
    columns: Columns to read, from `COLUMNS`.
    wanted: Ids of the purchased items.
    problems: Counter of unusable values.

  Returns:
    The items in the file's order, and int32[n], the row of each of `wanted`, -1
    where the file has none.
  """
  columns = [name for name in COLUMNS if name in columns]
  code_of = {item_id: code for code, item_id in enumerate(wanted.to_pylist())}
  num_rows = 0
  found_codes, found_lines = [np.empty(0, int)], [np.empty(0, np.int64)]
  found_ids: list[pa.Array] = []
  blocks: list[pa.Table] = []
  schema, variants = _schemas(release, columns)
  for rows in row_stream.read(
    path,
    schema,
    problems,
    variants=variants,
    convert=python_literals.to_json if release.literals else None,
  ):
    num_rows += rows.num_rows
    ids = amazon_reviews.ids(rows.table, release.item_columns)
    missing = ids.is_null().to_numpy(zero_copy_only=False)
    problems.add_rows("missing_item", path, rows.lines[missing])
    codes = np.array([code_of.get(id_, -1) for id_ in ids.to_pylist()], int)
    at = np.flatnonzero(codes >= 0)
    lines = rows.lines[at]
    problems.add_rows(
      "wrong_type", path, np.intersect1d(lines, rows.wrong_type)
    )
    table = _values(rows.table.take(at), release, columns)
    table, pages = _without_programs(table)
    problems.add_rows("web_page", path, lines[pages])
    found_codes.append(codes[at])
    found_lines.append(lines)
    found_ids.append(ids.take(at))
    blocks.append(table)
  codes, lines = np.concatenate(found_codes), np.concatenate(found_lines)
  table = pa.concat_tables(blocks) if blocks else pa.table({})
  known, first = np.unique(codes, return_index=True)
  first_of = np.full(len(wanted), -1)
  first_of[known] = first
  is_first = first_of[codes] == np.arange(len(codes))
  conflicting = [
    row
    for row in np.flatnonzero(~is_first)
    if table.slice(row, 1) != table.slice(first_of[codes[row]], 1)
  ]
  problems.add_rows("conflicting_item", path, lines[conflicting])
  row_of = np.full(len(wanted), -1, np.int32)
  row_of[codes[is_first]] = np.arange(len(known))
  mask = pa.array(is_first)
  table = table.filter(mask) if blocks else table
  items = events_lib.Items(
    item_ids=id_codes.Column(
      pa.chunked_array(found_ids, pa.string()).filter(mask)
    ),
    columns={name: id_codes.Column(table[name]) for name in table.column_names},
    file=path,
    lines=lines[is_first],
    available=COLUMNS,
    num_rows=num_rows,
  )
  return items, row_of


def _schemas(
  release: amazon_releases.Release, columns: Sequence[str]
) -> tuple[pa.Schema, list[pa.Schema]]:
  """Schema of the raw columns, and schemas with prices as numbers."""
  types: dict[str, pa.DataType] = {
    name: pa.string() for name in release.item_columns
  }
  if "title" in columns:
    types["title"] = pa.string()
  if "category" in columns:
    kind = pa.string()
    for _ in range(release.category_depth):
      kind = pa.list_(kind)
    types[release.category_column] = kind
  if "brand" in columns:
    for name in release.brand_columns:
      outer, _, inner = name.partition(".")
      types[outer] = pa.struct([(inner, pa.string())]) if inner else pa.string()
  if "price" not in columns:
    return pa.schema(types), []
  return (
    pa.schema(types | {"price": pa.string()}),
    [pa.schema(types | {"price": pa.float64()})],
  )


def _values(
  raw: pa.Table, release: amazon_releases.Release, columns: Sequence[str]
) -> pa.Table:
  """Raw columns under the fields' names, without HTML tags."""
  values = {}
  if "title" in columns:
    values["title"] = _without_tags(raw["title"])
  if "category" in columns:
    values["category"] = _names_without_tags(
      raw[release.category_column].combine_chunks()
    )
  if "brand" in columns:
    parts = [_without_tags(_part(raw, name)) for name in release.brand_columns]
    values["brand"] = amazon_reviews.first_filled(parts)
  if "price" in columns:
    values["price"] = _price(raw["price"])
  return pa.table(values)


def _price(column: pa.ChunkedArray) -> pa.ChunkedArray:
  """Prices without tags and `from`; placeholders for no price are null."""
  column = pc.utf8_trim_whitespace(_without_tags(column))
  column = pc.replace_substring_regex(column, "(?i)^from +", "")
  none = pc.is_in(pc.utf8_lower(column), _NO_PRICE)
  return pc.if_else(none, pa.scalar(None, pa.string()), column)


def _part(raw: pa.Table, name: str) -> pa.ChunkedArray:
  outer, _, inner = name.partition(".")
  return pc.struct_field(raw[outer], inner) if inner else raw[outer]


def _without_tags(column: pa.ChunkedArray) -> pa.ChunkedArray:
  return pc.replace_substring_regex(column, _TAG, " ")


def _names_without_tags(lists: pa.ListArray) -> pa.ListArray:
  """Lists of names, of any depth, without HTML tags."""
  inner = lists.values
  cleaned = (
    _names_without_tags(inner)
    if pa.types.is_list(inner.type)
    else pc.replace_substring_regex(inner, _TAG, " ")
  )
  return pa.ListArray.from_arrays(
    lists.offsets, cleaned, mask=lists.is_null() if lists.null_count else None
  )


def _without_programs(table: pa.Table) -> tuple[pa.Table, np.ndarray]:
  """The table without titles that are JavaScript, and which rows had one."""
  if "title" not in table.column_names:
    return table, np.zeros(table.num_rows, bool)
  title = table["title"]
  found = pc.fill_null(pc.match_substring(title, _PROGRAM), False)
  cleared = pc.if_else(found, pa.scalar(None, pa.string()), title)
  return (
    table.set_column(table.column_names.index("title"), "title", cleared),
    found.to_numpy(zero_copy_only=False),
  )
