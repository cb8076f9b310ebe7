"""Purchases that name their order instead of their user and time."""

import numpy as np
import pyarrow as pa
import pytest

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.files import row_blocks
from calrec_jax.data.logs.log_files import LogFiles
from calrec_jax.data.logs.reading import tables
from calrec_jax.data.logs.rows import order_rows
from calrec_jax.errors import InputError


def block(file, first=2, **columns):
  table = pa.table(columns)
  lines = np.arange(first, first + len(table))
  names = tuple(table.column_names)
  return tables.Block(file, row_blocks.Rows(table, lines), names)


def join(orders, purchases, **options):
  problems = problems_lib.Problems()
  known = order_rows.Orders(
    iter(orders), "order", ("", "NULL"), problems, **options
  )
  blocks = list(known.join(iter(purchases)))
  rows = [row for each in blocks for row in each.rows.table.to_pylist()]
  found = {p["kind"]: (p["count"], p["first"]) for p in problems.as_list()}
  return rows, found, blocks


ORDERS = [
  block("orders.csv", order=["1", "", "2"], user=["u", "x", "v"]),
  block("orders.csv", 5, order=["1", "2", "3"], user=["u", "w", None]),
]


def test_purchases_take_the_columns_of_their_order():
  rows, found, blocks = join(
    ORDERS,
    [
      block("lines.csv", order=["2", "9", "1"], item=["a", "b", "c"]),
      block("lines.csv", 5, order=[None, "3"], item=["d", "e"]),
    ],
  )
  assert rows == [
    {"order": "2", "item": "a", "user": "v"},
    {"order": "1", "item": "c", "user": "u"},
    {"order": "3", "item": "e", "user": None},
  ]
  # The second order of this name says the same of 1, not of 2.
  assert found == {
    "missing_order": (1, "orders.csv:3"),
    "conflicting_order": (1, "orders.csv:6"),
    "unknown_order": (2, "lines.csv:3"),
  }
  assert [each.rows.lines.tolist() for each in blocks] == [[2, 4], [6]]
  assert [each.rows.num_rows for each in blocks] == [3, 2]


def test_purchases_keep_their_own_columns():
  orders = [block("orders.csv", order=["1"], user=["u"], quantity=[5])]
  lines = [block("lines.csv", order=["1", "1"], quantity=[1, 2])]
  rows, _, _ = join(orders, lines)
  assert [row["quantity"] for row in rows] == [1, 2]
  absent = [lines[0]._replace(available=("order",))]  # JSON: a null column.
  rows, _, _ = join(orders, absent)
  assert [row["quantity"] for row in rows] == [5, 5]


def test_ids_of_several_types_and_spellings_are_the_same():
  orders = [
    block("orders", order=[1, 2], user=["u", "v"]),
    block("orders", order=["03"], user=[7]),
  ]
  rows, found, _ = join(
    orders, [block("lines", order=pa.array([1.0, 2.0, None]))]
  )
  assert [row["user"] for row in rows] == ["u", "v"]
  assert found == {"unknown_order": (1, "lines:4")}
  rows, found, _ = join(
    orders, [block("lines", order=["3"])], id_rules=("leading_zeros",)
  )
  assert [row["user"] for row in rows] == ["7"]
  assert not found


def test_without_orders_all_purchases_are_of_unknown_ones():
  rows, found, _ = join([], [block("lines", order=["1"])])
  assert not rows
  assert found == {"unknown_order": (1, "lines:2")}


def test_many_blocks_are_looked_up_together(monkeypatch):
  monkeypatch.setattr(order_rows, "_LOOK_UP_ROWS", 3)
  lines = [block("lines", i, order=[str(1 + i % 2)]) for i in range(7)]
  rows, found, blocks = join(ORDERS[:1], lines)
  assert [row["user"] for row in rows] == [
    "v" if i % 2 else "u" for i in range(7)
  ]
  assert len(blocks) == 7
  assert "unknown_order" not in found


@pytest.fixture
def files(tmp_path):
  (tmp_path / "orders.csv").write_text(
    "order_id,user_id,order_number\n1,u,1\n2,u,2\n3,v,1\n"
  )
  (tmp_path / "lines.csv").write_text(
    "order_id,product_id,place\n2,a,1\n1,b,2\n1,a,1\n3,b,1\n4,b,1\n"
  )
  (tmp_path / "products.csv").write_text("product_id,title\na,Apple\nb,Bread\n")
  return {
    "folder": str(tmp_path),
    "interactions": "lines.csv",
    "orders": "orders.csv",
    "items": "products.csv",
    "item_column": "product_id",
    "time_column": "order_number",
    "time_unit": "order",
    "order_column": "place",
  }


def test_three_tables_are_one_log(files):
  problems = problems_lib.Problems()
  events, items = LogFiles(**files).read(problems, ["title"])
  found = [
    (events.user_ids[user], items.item_ids[item], time)
    for user, item, time in zip(
      events.users, events.items, events.timestamps.tolist(), strict=True
    )
  ]
  assert sorted(found, key=lambda event: event[2]) == [
    *[("u", "a", 1), ("v", "b", 1), ("u", "b", 1), ("u", "a", 2)]
  ]
  assert {p["kind"]: (p["count"], p["first"]) for p in problems.as_list()} == {
    "unknown_order": (1, "lines.csv:6")
  }
  assert events.num_rows == 5


@pytest.mark.parametrize(
  ("options", "said"),
  [
    (
      {"order_id_column": "invoice"},
      r"orders\.csv .*LogFiles\.order_id_column",
    ),
    ({"user_column": "who"}, r"lines\.csv .*LogFiles\.user_column"),
  ],
)
def test_a_column_that_no_table_has_is_named(files, options, said):
  with pytest.raises(InputError, match=said):
    LogFiles(**files | options).read(problems_lib.Problems(), ["title"])
