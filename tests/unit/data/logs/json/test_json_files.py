"""JSON files of every layout: the same rows, each with its line."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.files import read_options
from calrec_jax.data.logs.json import json_files, json_layout

ROWS = [
  {"user": i, "title": f"Tea {i}, 'green' \"x\"", "price": i / 2}
  for i in range(5)
]
PLAIN = "\n".join(map(json.dumps, ROWS))


def read(data, *wanted, sample=None, **options):
  problems = problems_lib.Problems()
  data = data.encode() if isinstance(data, str) else data
  options = read_options.ReadOptions(**options)
  file = json_files.JsonFile(io.BytesIO(data), "a.json", options, problems)
  rows, lines = [], []
  for block in file.rows(wanted):
    assert block.table.column_names == list(wanted)
    rows += block.table.to_pylist()
    lines += block.lines.tolist()
  assert len(rows) == len(lines)
  found = {p["kind"]: (p["count"], p["first"]) for p in problems.as_list()}
  return rows, lines, found, file


def only(*names):
  return [{name: row.get(name) for name in names} for row in ROWS]


LAYOUTS = {
  "lines": (PLAIN, [1, 2, 3, 4, 5]),
  "lines_end": (PLAIN + "\n", [1, 2, 3, 4, 5]),
  "lines_crlf": (PLAIN.replace("\n", "\r\n"), [1, 2, 3, 4, 5]),
  "blank_first": ("\n \n" + PLAIN.replace("\n", "\n\n"), [3, 5, 7, 9, 11]),
  "array": (json.dumps(ROWS), [1] * 5),
  "array_indent": (json.dumps(ROWS, indent=2), [2, 7, 12, 17, 22]),
  "array_lines": ("[\n" + PLAIN.replace("\n", ",\n") + "\n]", [2, 3, 4, 5, 6]),
  "array_after_blank": ("\n\n" + json.dumps(ROWS), [3] * 5),
  "arrays": (
    json.dumps(ROWS[:2]) + "\n" + json.dumps(ROWS[2:]),
    [1, 1, 2, 2, 2],
  ),
  "pretty": (
    "\n".join(json.dumps(row, indent=1) for row in ROWS),
    [1, 6, 11, 16, 21],
  ),
  "one_line": ("".join(map(json.dumps, ROWS)), [1] * 5),
  "in_object": (json.dumps({"orders": ROWS}), [1] * 5),
  "in_object_lines": (
    '{"v": 1, "orders": [\n' + PLAIN.replace("\n", ",\n") + "\n]}",
    [2, 3, 4, 5, 6],
  ),
  "deep": (json.dumps({"a": 1, "data": {"rows": ROWS}}), [1] * 5),
  "printed_python": ("\n".join(map(repr, ROWS)), [1, 2, 3, 4, 5]),
  "printed_list": (repr(ROWS), [1] * 5),
  "columns": (
    json.dumps(
      {k: {str(i): r[k] for i, r in enumerate(ROWS)} for k in ROWS[0]}
    ),
    [1, 2, 3, 4, 5],
  ),
  "columns_as_lists": (
    json.dumps({k: [r[k] for r in ROWS] for k in ROWS[0]}),
    [1, 2, 3, 4, 5],
  ),
  "split": (
    json.dumps(
      {"columns": [*ROWS[0]], "data": [[*row.values()] for row in ROWS]}
    ),
    [1, 2, 3, 4, 5],
  ),
  "index": (
    json.dumps({str(i): row for i, row in enumerate(ROWS)}),
    [1, 2, 3, 4, 5],
  ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_rows(layout):
  text, lines = LAYOUTS[layout]
  rows, found_lines, bad, file = read(text, "user", "title", "missing")
  assert rows == only("user", "title", "missing")
  assert found_lines == lines
  assert not bad
  assert {"user", "title"} <= {*file.available}
  assert "missing" not in file.available
  assert file.num_lines == text.count("\n") + (not text.endswith("\n"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_larger_than_its_sample(layout, monkeypatch):
  if layout in ("columns", "columns_as_lists", "split", "index"):
    pytest.skip("told by the whole object")
  monkeypatch.setattr(json_files, "_SAMPLE_BYTES", 200)
  monkeypatch.setattr(json_files.line_blocks, "BLOCK_BYTES", 64)
  text, lines = LAYOUTS[layout]
  if layout == "deep":
    text = text.replace('"a": 1', '"a": {"b": [1]}')
  rows, found_lines, bad, _ = read(text, "user", "title")
  assert rows == only("user", "title")
  assert found_lines == lines
  assert not bad


@pytest.mark.parametrize("layout", ["columns", "index", "split"])
def test_an_object_larger_than_its_sample(layout, monkeypatch):
  monkeypatch.setattr(json_files, "_SAMPLE_BYTES", 100)
  rows, _, bad, file = read(LAYOUTS[layout][0], "user", "title")
  assert rows == only("user", "title")
  assert not bad
  assert {"user", "title"} <= {*file.available}


def test_python_2_literals():
  text = "{u'user': u'caf\\xe9', 'n': None}\n{'user': \"b's\", 'n': 5L}\n"
  rows, _, bad, file = read(text.replace("5L", "5"), "user", "n")
  assert rows == [{"user": "café", "n": None}, {"user": "b's", "n": 5}]
  assert not bad
  assert file.describe()["written"] == "printed Python"


def test_nested_columns():
  text = (
    '{"user": {"id": 1}, "items": [{"sku": "a"}, {"sku": "b"}]}\n'
    '{"user": {"id": 2}, "items": []}\n'
    '{"user": {"id": 3}}\n'
  )
  expected = [
    {"user.id": 1, "items[].sku": "a"},
    {"user.id": 1, "items[].sku": "b"},
    {"user.id": 3, "items[].sku": None},
  ]
  for data in (text, "[" + text.strip().replace("\n", ",") + "]"):
    rows, lines, _, file = read(data, "user.id", "items[].sku")
    assert rows == expected
    assert {"user.id", "items[].sku"} <= {*file.available}
  rows, lines, *_ = read(text, "user.id", "items[].sku")
  assert lines == [1, 1, 3]


@pytest.mark.parametrize("sample", [1 << 20, 100])
def test_a_list_in_an_object_by_its_full_name(sample, monkeypatch):
  monkeypatch.setattr(json_files, "_SAMPLE_BYTES", sample)
  orders = [{"user": {"id": i}} for i in range(9)]
  text = json.dumps({"at": "2020", "orders": orders})
  for name in ("orders[].user.id", "user.id"):
    rows, *_ = read(text, name)
    assert rows == [{name: i} for i in range(9)]


def test_the_list_that_has_the_columns_is_read():
  text = json.dumps({"users": [{"name": "x"}] * 3, "orders": ROWS})
  assert read(text, "user", "title")[0] == only("user", "title")
  # A file of one row is a row, though there is a list in it.
  text = json.dumps({"user": 1, "items": [{"sku": "a"}]})
  assert read(text, "user")[0] == [{"user": 1}]
  assert read(text, "user", "items[].sku")[0] == [
    {"user": 1, "items[].sku": "a"}
  ]


def test_keys_with_dots_win():
  text = '{"user.id": 1, "user": {"id": 2}}\n' * 2
  assert read(text, "user.id")[0] == [{"user.id": 1}] * 2


@pytest.mark.parametrize("sample", [1 << 20, 60])
def test_lists_of_items_per_user(sample, monkeypatch):
  monkeypatch.setattr(json_files, "_SAMPLE_BYTES", sample)
  users = {f"u{i}": [i, "b"] for i in range(9)}
  rows, lines, bad, file = read(
    json.dumps(users, indent=0), "user_id", "item_id", "position"
  )
  assert rows[:2] == [
    {"user_id": "u0", "item_id": "0", "position": 1},
    {"user_id": "u0", "item_id": "b", "position": 2},
  ]
  assert len(rows) == 18
  assert lines[:4] == [2, 2, 6, 6]
  assert not bad
  assert {"user_id", "item_id"} <= {*file.available}


@pytest.mark.parametrize("join", [",", "\n"])
def test_rows_that_are_lists_need_names(join):
  text = join.join(['["a", 1]', '["b", 2]', '["c"]'])
  text = f"[{text}]" if join == "," else text
  with pytest.raises(ValueError, match=r"LogFiles\.columns"):
    read(text, "u")
  rows, _, bad, _ = read(text, "u", "i", columns=("u", "i"))
  assert rows == [{"u": "a", "i": 1}, {"u": "b", "i": 2}]
  assert bad["malformed_row"][0] == 1


def test_ids_keep_their_digits():
  ids = [12345678901234567, 2**70, 1.5, "x", None]
  for text in (
    "\n".join(json.dumps({"id": i}) for i in ids),
    json.dumps([{"id": i} for i in ids]),
  ):
    rows, *_ = read(text, "id")
    assert [row["id"] for row in rows] == [
      "12345678901234567",
      str(2**70),
      "1.5",
      "x",
      None,
    ]


def test_whole_numbers_are_not_rounded_by_fractions_before_them():
  many = [{"id": 1.5}] * 2000 + [{"id": 12345678901234567}]
  rows, *_ = read("\n".join(map(json.dumps, many)), "id")
  assert rows[-1]["id"] in (12345678901234567, "12345678901234567")


def test_a_column_that_begins_late_is_found():
  text = "\n".join([json.dumps({"a": 1})] * 3000 + [json.dumps({"b": "x"})])
  rows, *_, file = read(text, "a", "b")
  assert rows[-1] == {"a": None, "b": "x"}
  assert "b" in file.available


def test_mongo():
  text = (
    '{"_id": {"$oid": "5f"}, "n": {"$numberLong": "12345678901234567"}}\n'
    '{"_id": {"$oid": "60"}, "n": 5}\n'
  )
  rows, *_ = read(text, "_id", "n")
  assert rows == [{"_id": "5f", "n": 12345678901234567}, {"_id": "60", "n": 5}]


def test_bad_lines_are_counted():
  text = PLAIN + '\nbad\n{"user": "\\ud800"}\n\n[1]\n{"user": 9}'
  rows, lines, bad, _ = read(text, "user")
  assert [row["user"] for row in rows] == [0, 1, 2, 3, 4, 9]
  assert lines[-1] == 10
  assert bad == {
    "malformed_row": (2, "a.json:6"),
    "broken_encoding": (1, "a.json:7"),
  }
  rows, _, bad, _ = read(text.encode() + b'\n{"user": "\xff"}', "user")
  assert bad["broken_encoding"] == (2, "a.json:7")


def test_every_line_of_a_damaged_object_is_counted():
  pretty = [json.dumps(row, indent=1) for row in ROWS]
  pretty[2] = pretty[2].replace('"user": 2', '"user": 2,,')
  rows, _, bad, _ = read("\n".join(pretty), "user")
  assert [row["user"] for row in rows] == [0, 1, 3, 4]
  assert bad == {"malformed_row": (5, "a.json:11")}
  array = json.dumps(ROWS).replace('"user": 2', '"user": x')
  rows, _, bad, _ = read(array, "user")
  assert [row["user"] for row in rows] == [0, 1, 3, 4]
  assert bad == {"malformed_row": (1, "a.json:1")}


def test_an_unclosed_text_ends_with_its_line():
  lines = ["[", *PLAIN.replace("\n", ",\n").split("\n"), "]"]
  lines[3] = lines[3].replace('", "price', ', "price')
  rows, _, bad, _ = read("\n".join(lines), "user")
  assert [row["user"] for row in rows] == [0, 1, 3, 4]
  assert bad == {"malformed_row": (1, "a.json:4")}


@pytest.mark.parametrize("cut", [1, 20])
def test_a_list_that_is_cut_is_an_error(cut):
  with pytest.raises(ValueError, match=r"a\.json:\d+: the file ends within"):
    read(json.dumps(ROWS, indent=1)[:-cut], "user")


JSON = st.dictionaries(
  st.sampled_from(["a", "b", "c"]),
  st.none()
  | st.booleans()
  | st.integers()
  | st.floats(allow_nan=False, allow_infinity=False)
  | st.text(max_size=5)
  | st.lists(st.integers(0, 9), max_size=2),
)


@given(
  st.lists(JSON, min_size=2, max_size=6),
  st.sampled_from(["lines", "array", "indent"]),
)
def test_any_rows_in_any_layout(rows, layout):
  text = {
    "lines": "\n".join(map(json.dumps, rows)),
    "array": json.dumps(rows),
    "indent": json.dumps(rows, indent=1),
  }[layout]
  found, _, bad, _ = read(text, "a", "b")
  assert not bad
  assert len(found) == len(rows)
  for row, one in zip(rows, found, strict=True):
    for name in ("a", "b"):
      value = row.get(name)
      assert (value is None) == (one[name] is None)
      if isinstance(value, str) and not isinstance(one[name], list):
        assert one[name] == value


@given(st.lists(st.integers(0, 3), min_size=3, max_size=40))
def test_rows_and_damage_make_up_the_file(kinds):
  """Each object has a line of its own; each line is read or counted."""
  texts = ['{"a": 1}', '{"a": "x"}', '{"a": ', '{"a": 1,,}']
  text = "\n".join(['{"a": 0}'] * 50 + [texts[kind] for kind in kinds])
  rows, lines, bad, file = read(text, "a")
  good = sum(kind < 2 for kind in kinds)
  assert len(rows) == 50 + good
  assert bad.get("malformed_row", (0,))[0] == len(kinds) - good
  assert file.num_lines == 50 + len(kinds)
  assert lines == sorted(lines)


def test_names_are_few():
  many = json_layout.names([{str(i): 1 for i in range(10_000)}])
  assert len(many) < 1000


def test_values_of_some_columns_stay_apart():
  rows = [
    {"id": 1, "items": ["a", 2]},
    {"id": 2, "items": "abc"},
    {"id": 3, "items": [["a"]]},
    {"id": 4, "items": None},
    {"id": 5},
    {"id": 6, "items": [{"$oid": "5f"}]},
  ]
  for text in ("\n".join(map(json.dumps, rows)), json.dumps(rows, indent=1)):
    found, *_ = read(text, "id", "items", as_json=("items",))
    assert [row["items"] and json.loads(row["items"]) for row in found] == [
      ["a", 2],
      "abc",
      [["a"]],
      None,
      None,
      ["5f"],
    ]
    assert [row["id"] for row in found] == [1, 2, 3, 4, 5, 6]
