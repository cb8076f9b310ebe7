"""Conditions on rows: what is one, and for which rows it holds."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec_jax.data.logs.rows import where, where_masks
from calrec_jax.errors import InputError

MISSING = ("", "NULL")


def holds(condition, decimal=".", missing=MISSING, /, **columns):
  """For which rows a condition on columns holds."""
  parsed = where.parse(condition, "LogFiles.where")
  arrays = {
    name: column if isinstance(column, pa.Array) else pa.array(column)
    for name, column in columns.items()
  }
  masks = {
    leaf: where_masks.mask(leaf, arrays[leaf.column], decimal, missing)
    for leaf in parsed.comparisons()
  }
  return parsed.holds(masks, len(next(iter(arrays.values())))).tolist()


def tree(text):
  """A condition in prefix notation."""

  def written(part):
    if isinstance(part, where.Comparison):
      return f"{part.column} {part.symbol} {part.value!r}"
    return f"{part[0]}({', '.join(map(written, part[1:]))})"

  clauses = where.parse(text, "LogFiles.where").clauses
  return [written(clause.tree) for clause in clauses]


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("a == 1", ["a == 1"]),
    ("1 < a", ["a > 1"]),
    ("1 < a <= 3", ["and(a > 1, a <= 3)"]),
    ("a is None", ["a == None"]),
    ("a is not None", ["a != None"]),
    ("a == -1.5", ["a == -1.5"]),
    ("a in ('x', 2)", ["a in ('x', 2)"]),
    ("a not in ['x']", ["a not in ('x',)"]),
    ("x.y.z == 1", ["x.y.z == 1"]),
    ("`Order Date` >= '2024-01-01'", ["Order Date >= '2024-01-01'"]),
    ("`class` == 1", ["class == 1"]),
    ("`a b`.c == 1", ["a b.c == 1"]),
    ("a == '`b`'", ["a == '`b`'"]),
    ("quoted_name_0 == 1 and `x y` == 2", ["quoted_name_0 == 1", "x y == 2"]),
    ("größe == 'groß'", ["größe == 'groß'"]),
    ("a == 1 and\n  b == 2", ["a == 1", "b == 2"]),
    # `and` binds more than `or`, `not` more than both.
    (
      "not a == 1 or b == 2 and c == 3",
      ["or(not(a == 1), and(b == 2, c == 3))"],
    ),
    ("(a == 1 or b == 2) and c == 3", ["or(a == 1, b == 2)", "c == 3"]),
    ("not (a == 1 and b == 2)", ["not(and(a == 1, b == 2))"]),
  ],
)
def test_conditions_are_read_as_python_reads_them(text, expected):
  assert tree(text) == expected


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("", "must be a condition such as"),
    (None, "must be a condition such as"),
    (5, "must be a condition such as"),
    ("a = 1", r"from '= 1' on\. Equality is written =="),
    ("a == 1 AND b == 2", r"from 'AND b == 2' on\. Words are written and, or"),
    ("a <> 1", "inequality !="),
    ("größe ==== 1", "from '== 1' on"),
    ("class == 1", "Write the name 'class' in backticks: `class`"),
    ("`a b` c == 1", "from 'c == 1' on"),
    ("a", "names the column 'a' without comparing it"),
    ("a == 1 and b", "names the column 'b' without comparing it.* at 'b'"),
    ("a == b", "one column with one constant, at 'b'"),
    ("1 == 2", "one column with one constant, at '1'"),
    ("len(a) == 2", r"one column with one constant, at 'len\(a\)'"),
    ("a + 1 == 2", r"at 'a \+ 1'"),
    ("a == 2 ** 99", r"at '2 \*\* 99'"),
    ("a == `b c`", "at '`b c`'"),
    ("a in 'abc'", "needs a column and a list"),
    ("'a' in a", "one column with one constant"),
    ("a == ('x',)", "a list of constants needs `in`"),
    ("a > None", "None can only be compared"),
    ("a == b'x'", "neither a number nor a text"),
    ("a in ('x', ('y',))", "neither a number nor a text"),
    ("__import__('os').system('ls')", "only comparisons"),
    ("[x for x in a]", "only comparisons"),
    ("not " * 5000 + "a == 1", "too many parts"),
  ],
)
def test_what_is_no_condition_is_refused_with_its_place(text, said):
  with pytest.raises(InputError, match=said) as raised:
    where.parse(text, "LogFiles.target_where")
  message = str(raised.value)
  assert message.startswith("LogFiles.target_where = ")
  assert "\n" not in message
  assert len(message) < 500


def test_clauses_keep_their_text():
  parsed = where.parse(
    "`Art` == 'kauf' and (menge > 0 or  gratis == 1)", "LogFiles.where"
  )
  assert [clause.text for clause in parsed.clauses] == [
    "`Art` == 'kauf'",
    "menge > 0 or  gratis == 1",
  ]
  assert parsed.columns() == ("Art", "menge", "gratis")
  assert [leaf.column for leaf in parsed.amounts()] == ["menge"]


def test_missing_values_satisfy_nothing_but_that_they_are_missing():
  for column in (
    ["x", None, "", " NULL ", "y"],
    pa.array([1.5, None, math.nan, None, 2.0]),
    pa.array([[1], None, None, None, [2]]),
    pa.array([True, None, None, None, False]),
  ):
    present = [True, False, False, False, True]
    assert holds("a != None", a=column) == present
    assert holds("a == None", a=column) == [not value for value in present]
    for text in ("a == 'q'", "a < 9", "a in (9, 'q')"):
      assert not any(np.array(holds(text, a=column)) & ~np.array(present))
    assert holds("a != 'q'", a=column) == present
    assert holds("a not in (9, 'q')", a=column) == present
  assert holds("a < 0", ".", ("-1",), a=["-1", "-2"]) == [False, True]


def test_numbers_in_texts_are_numbers():
  column = ["10", "9", "9.5", "€ 9.00", "abc", "1,000"]
  assert holds("a > 9", a=column) == [True, False, True, False, False, True]
  assert holds("a > '9'", a=column) == holds("a > 9", a=column)
  assert holds("a != 9", a=column) == [True, False, True, False, True, True]
  german = ["1,50", "1.000,00", "-2,5", "x"]
  assert holds("a >= 1.5", ",", a=german) == [True, True, False, False]
  assert holds("a < 0", ",", a=german) == [False, False, True, False]


def test_texts_are_compared_as_they_are():
  column = ["01", "1", " x ", "X"]
  assert holds("a == '01'", a=column) == [True, False, False, False]
  assert holds("a == 1", a=column) == [True, True, False, False]
  assert holds("a == ' x'", a=column) == [False, False, True, False]
  days = ["2024-01-31", "2024-02-01", ""]
  assert holds("a >= '2024-02'", a=days) == [False, True, False]
  numbers = pa.array([4.0, 4.5, math.nan])
  assert holds("a == '4.5'", a=numbers) == [False, True, False]
  assert holds("a == '4'", a=numbers) == [True, False, False]
  assert holds("a not in (4,)", a=numbers) == [False, True, False]


def test_truth_is_that_of_any_type():
  for column in (
    [True, False, None],
    ["True", "false", ""],
    ["1", "0", "NULL"],
    pa.array([1, 0, None]),
  ):
    assert holds("a == True", a=column) == [True, False, False]
    assert holds("a != True", a=column) == [False, True, False]
  assert holds("a == 'true'", a=[True, False, None]) == [True, False, False]
  assert holds("a == 1", a=[True, False, None]) == [True, False, False]


DAY = 86_400_000


def test_times_are_compared_with_days():
  times = np.array([0, DAY, 2 * DAY, 0])
  readable = np.array([True, True, True, False])

  def found(symbol, value):
    leaf = where.Comparison("t", symbol, value)
    return where_masks.time_mask(leaf, times, readable).tolist()

  assert found(">=", "1970-01-02") == [False, True, True, False]
  assert found("!=", "1970-01-02") == [True, False, True, False]
  assert found("<", "1970-01-02T00:00:00.001+00:00") == [
    True,
    True,
    False,
    False,
  ]
  assert found("in", ("1970-01-01", "1970-01-03")) == [True, False, True, False]
  assert found("not in", ("1970-01-01",)) == [False, True, True, False]
  assert found("==", None) == [False, False, False, True]
  assert found("!=", None) == [True, True, True, False]
  for value in (1970, "soon"):
    with pytest.raises(InputError, match=r"'t'.*such as '2024-01-31'"):
      found("<", value)


# Random conditions on random rows, against Python's own evaluation.

WORDS = ("a", "b", "ä", "10", "9", "2.5", "NULL", "")
COLUMNS = {
  "text": st.none() | st.sampled_from(WORDS),
  "whole": st.none() | st.integers(-3, 12),
  "real": st.none() | st.sampled_from([math.nan, -1.5, 0.0, 2.5, 9.0, 10.0]),
}
CONSTANTS = st.sampled_from([*WORDS[:6], -1.5, 0, 2.5, 9, 10, None])
ROWS = st.lists(st.fixed_dictionaries(COLUMNS), min_size=1, max_size=6)


@st.composite
def comparisons(draw):
  column = draw(st.sampled_from([*COLUMNS]))
  symbol = draw(
    st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "not in"])
  )
  if symbol.endswith("in"):
    value = tuple(draw(st.lists(CONSTANTS, max_size=3)))
  else:
    usable = CONSTANTS
    if symbol not in ("==", "!="):
      usable = CONSTANTS.filter(lambda value: value is not None)
    value = draw(usable)

  def expected(row):
    return compare(row[column], symbol, value)

  return f"{column} {symbol} {value!r}", expected


def combined(children):
  def joined(word, all_or_any):
    return st.lists(children, min_size=2, max_size=3).map(
      lambda parts: (
        f"({f' {word} '.join(text for text, _ in parts)})",
        lambda row: all_or_any(holds_(row) for _, holds_ in parts),
      )
    )

  negated = children.map(
    lambda part: (f"not {part[0]}", lambda row: not part[1](row))
  )
  return joined("and", all) | joined("or", any) | negated


def compare(value, symbol, constant):
  """One comparison by the rules that the documentation states."""
  missing = (
    value is None
    or (isinstance(value, float) and math.isnan(value))
    or value in MISSING
  )
  if symbol == "in":
    return any(compare(value, "==", each) for each in constant)
  if symbol == "not in":
    return not missing and not compare(value, "in", constant)
  if constant is None:
    return missing == (symbol == "==")
  if missing:
    return False
  if symbol == "!=":
    return not compare(value, "==", constant)
  number, limit = as_number(value), as_number(constant)
  if isinstance(constant, str) and (symbol == "==" or limit is None):
    whole = isinstance(value, float) and value.is_integer()
    number, limit = str(int(value) if whole else value), constant
  if number is None:
    return False
  return {
    "==": number == limit,
    "<": number < limit,
    "<=": number <= limit,
    ">": number > limit,
    ">=": number >= limit,
  }[symbol]


def as_number(value):
  try:
    return float(value)
  except ValueError:
    return None


@settings(max_examples=150)
@given(st.recursive(comparisons(), combined, max_leaves=5), ROWS)
def test_random_conditions_hold_where_python_says(condition, rows):
  text, expected = condition
  types = {"text": pa.string(), "whole": pa.int64(), "real": pa.float64()}
  columns = {
    name: pa.array([row[name] for row in rows], types[name], from_pandas=False)
    for name in COLUMNS
  }
  assert holds(text, **columns) == [expected(row) for row in rows]
