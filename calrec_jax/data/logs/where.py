"""Which rows of a log count: a small language of comparisons.

`event == "purchase" and rating >= 4 and quantity > 0`: Python's syntax for
comparisons of columns with constants, `in`, `not in`, `and`, `or`, `not` and
parentheses. The text is parsed, never evaluated, and each comparison works on
whole Arrow columns.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import ast
import dataclasses
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs import numbers, values
from calrec_jax.errors import InputError

_EXAMPLE = "event == \"purchase\" and rating >= 4 and date >= '2024-01-01'"
_GRAMMAR = (
  "Texts stand in quotes, a column whose name is not one word in backticks "
  "(`event type`); and, or, not join comparisons by == != < <= > >= in."
)
# Texts come first: a backtick in one is a character of it.
_QUOTED_NAME = re.compile(
  r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|`([^`]+)`"""
)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?")
_OPERATORS: Mapping[type[ast.cmpop], tuple[str, Callable[[Any, Any], Any]]] = {
  ast.Eq: ("==", operator.eq),
  ast.NotEq: ("!=", operator.ne),
  ast.Lt: ("<", operator.lt),
  ast.LtE: ("<=", operator.le),
  ast.Gt: (">", operator.gt),
  ast.GtE: (">=", operator.ge),
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")
_SYMBOLS = {symbol: compare for symbol, compare in _OPERATORS.values()}
_OF_TEXTS = {
  "==": pc.equal,
  "!=": pc.not_equal,
  "<": pc.less,
  "<=": pc.less_equal,
  ">": pc.greater,
  ">=": pc.greater_equal,
}


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One comparison of a column with constants.

  Attributes:
    column: Name of the column.
    symbol: One of == != < <= > >= in "not in".
    value: Number, text or None; a tuple of them for `in`.
  """

  column: str
  symbol: str
  value: Any


@dataclasses.dataclass(frozen=True)
class Clause:
  """One of the parts that a top-level `and` joins.

  Attributes:
    text: The part as it was written.
    tree: A `Comparison`, or ("and" | "or", parts…) or ("not", part).
  """

  text: str
  tree: Any

  def comparisons(self) -> list[Comparison]:
    """Its comparisons, from left to right."""
    return _leaves(self.tree)

  def holds(
    self, masks: Mapping[Comparison, np.ndarray], length: int
  ) -> np.ndarray:
    """bool[n], for which rows the part holds, by the mask of each comparison.

    Args:
      masks: bool[n] by comparison.
      length: Number of rows n.
    """
    return _combine(self.tree, masks, length)


@dataclasses.dataclass(frozen=True)
class Where:
  """A parsed condition.

  Attributes:
    binding: The gin name of its text, for messages.
    clauses: The parts that its top-level `and` joins.
  """

  binding: str
  clauses: tuple[Clause, ...] = ()

  def comparisons(self) -> tuple[Comparison, ...]:
    """All comparisons, each once."""
    found = [leaf for clause in self.clauses for leaf in clause.comparisons()]
    return tuple(dict.fromkeys(found))

  def columns(self) -> tuple[str, ...]:
    """Names of the columns that it reads."""
    return tuple(dict.fromkeys(leaf.column for leaf in self.comparisons()))

  def amounts(self) -> list[Comparison]:
    """For each column that must exceed a number: that it is negative.

    A row with a negative quantity is a return rather than a purchase.
    """
    names = [
      leaf.column
      for clause in self.clauses
      for leaf in clause.comparisons()
      if leaf.symbol in (">", ">=") and is_numeric(leaf)
    ]
    return [Comparison(name, "<", 0) for name in dict.fromkeys(names)]

  def holds(
    self, masks: Mapping[Comparison, np.ndarray], length: int
  ) -> np.ndarray:
    """bool[n], for which rows the condition holds, see `Clause.holds`."""
    found = np.ones(length, bool)
    for clause in self.clauses:
      found &= clause.holds(masks, length)
    return found


def parse(text: str, binding: str) -> Where:
  """Parses a condition.

  Args:
    text: The condition; names that are not words stand in backticks.
    binding: The gin name of the text, for messages.

  Raises:
    InputError: If it is no condition; the message shows the place.
  """
  if not isinstance(text, str) or not text.strip():
    raise InputError(
      f"{binding} = {text!r}: must be a condition such as {_EXAMPLE!r}."
    )
  names: dict[str, str] = {}

  def stand_in(match: re.Match[str]) -> str:
    if match[1] is not None:
      return match[1]
    name = f"quoted_name_{len(names)}_"
    names[name] = match[2]
    return name

  source = _QUOTED_NAME.sub(stand_in, text.strip())
  try:
    tree = ast.parse(source, mode="eval").body
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    hint = " Equality is written ==." if re.search("[^=<>!]=[^=]", text) else ""
    raise InputError(
      f"{binding} = {text!r} is not a condition ({error.args[0]}).{hint} "
      f"{_GRAMMAR} An example: {_EXAMPLE}"
    ) from error
  reader = _Reader(text, source, binding, names)
  is_and = isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And)
  parts = tree.values if is_and else [tree]

  def written(node: ast.AST) -> str:
    part = ast.get_source_segment(source, node) or text
    for name, original in names.items():
      part = part.replace(name, f"`{original}`")
    return part

  return Where(
    binding, tuple(Clause(written(part), reader.read(part)) for part in parts)
  )


class _Reader:
  """Reads a syntax tree as comparisons."""

  def __init__(
    self, text: str, source: str, binding: str, names: Mapping[str, str]
  ) -> None:
    self._text, self._source = text, source
    self._binding, self._names = binding, names

  def read(self, node: ast.AST) -> Any:
    """The tree of a `Clause`."""
    if isinstance(node, ast.BoolOp):
      word = "and" if isinstance(node.op, ast.And) else "or"
      return (word, *map(self.read, node.values))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
      return ("not", self.read(node.operand))
    if isinstance(node, ast.Compare):
      sides = [node.left, *node.comparators]
      pairs = [
        self._comparison(left, op, right)
        for left, op, right in zip(sides, node.ops, sides[1:], strict=False)
      ]
      return pairs[0] if len(pairs) == 1 else ("and", *pairs)
    if name := self._name(node):
      raise self._error(
        f"it names the column {name!r} without comparing it, as in {name} == 1"
      )
    raise self._error("only comparisons of columns with constants are allowed")

  def _comparison(self, left: ast.AST, op: ast.cmpop, right: ast.AST) -> Any:
    if isinstance(op, (ast.Is, ast.IsNot)):
      op = ast.Eq() if isinstance(op, ast.Is) else ast.NotEq()
    column, other = self._name(left), self._name(right)
    if isinstance(op, (ast.In, ast.NotIn)):
      values_ = self._constant(right)
      if isinstance(values_, str):  # ("a") is one text in parentheses.
        values_ = (values_,)
      if column is None or not isinstance(values_, tuple):
        raise self._error('`in` needs a column and a list: event in ("a", "b")')
      return Comparison(
        column, "in" if isinstance(op, ast.In) else "not in", values_
      )
    symbol = _OPERATORS[type(op)][0]
    if (column is None) == (other is None):
      raise self._error("each comparison is of one column with one constant")
    if column is None:
      assert other is not None
      return self._checked(
        Comparison(other, _MIRRORED[symbol], self._constant(left))
      )
    return self._checked(Comparison(column, symbol, self._constant(right)))

  def _checked(self, comparison: Comparison) -> Comparison:
    if isinstance(comparison.value, tuple):
      raise self._error("a list of constants needs `in`")
    if comparison.value is None and comparison.symbol not in ("==", "!="):
      raise self._error("None, a missing value, can only be compared by == !=")
    if comparison.symbol in ("==", "!="):
      return comparison
    if isinstance(comparison.value, bool):
      raise self._error(f"{comparison.value} can only be compared by == !=")
    if isinstance(comparison.value, str) and _is_number(comparison.value):
      # As texts "9" comes after "10", which nobody means.
      raise self._error(
        f"{comparison.value!r} is a text; a number stands without quotes"
      )
    return comparison

  def _name(self, node: ast.AST) -> str | None:
    """The column that a node names; dots name parts of it."""
    if isinstance(node, ast.Name):
      # As it is written: Python's parser makes one of similar letters.
      name = ast.get_source_segment(self._source, node) or node.id
      return self._names.get(name, name)
    if isinstance(node, ast.Attribute):
      before = self._name(node.value)
      return None if before is None else f"{before}.{node.attr}"
    return None

  def _constant(self, node: ast.AST) -> Any:
    try:
      value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError) as error:
      raise self._error(
        "each comparison is of one column with one constant"
      ) from error
    value = tuple(value) if isinstance(value, (list, set, tuple)) else value
    for part in value if isinstance(value, tuple) else (value,):
      if part is not None and not isinstance(part, (str, int, float)):
        raise self._error(f"{part!r} is neither a number nor a text")
    return value

  def _error(self, why: str) -> InputError:
    return InputError(
      f"{self._binding} = {self._text!r}: {why}. {_GRAMMAR} An example: "
      f"{_EXAMPLE}"
    )


def mask(
  comparison: Comparison,
  column: pa.Array | pa.ChunkedArray,
  decimal: str = ".",
  missing: Sequence[str] = (),
) -> np.ndarray:
  """bool[n], for which values a comparison holds; missing ones satisfy none.

  Only `== None` holds for missing values, and `!= None` for all others.

  Args:
    comparison: Comparison with a number, a text or None.
    column: Values of its column, of any type.
    decimal: Decimal sign of numbers that are written as text.
    missing: Words that mean a missing value.
  """
  name = comparison.column
  if comparison.symbol in ("in", "not in"):
    found = np.zeros(len(column), bool)
    for value in comparison.value:
      found |= mask(Comparison(name, "==", value), column, decimal, missing)
    if comparison.symbol == "in":
      return found
    return ~found & mask(Comparison(name, "!=", None), column, decimal, missing)
  value, compare = comparison.value, _SYMBOLS[comparison.symbol]
  if isinstance(value, bool):
    texts = pc.utf8_lower(_truths(column, missing))
    same, other = (_TRUE, _FALSE) if value else (_FALSE, _TRUE)
    chosen = same if comparison.symbol == "==" else other
    return _to_numpy(pc.is_in(texts, pa.array(chosen, texts.type)))
  if value is None:
    absent = _to_numpy(values.ids(column, missing).is_null())
    return absent if comparison.symbol == "==" else ~absent
  if isinstance(value, (int, float)):
    found, readable = numbers.parse(_numeric(column), decimal)
    with np.errstate(invalid="ignore"):
      return compare(found, float(value)) & readable
  holds = _OF_TEXTS[comparison.symbol](
    values.ids(column, missing), value.strip()
  )
  return _to_numpy(pc.fill_null(holds, False))


def is_day(comparison: Comparison) -> bool:
  """Whether a comparison is with a day or time, as ISO 8601 writes them."""
  value = comparison.value
  many = value if isinstance(value, tuple) else (value,)
  return bool(many) and all(
    isinstance(v, str) and _DAY.fullmatch(v.strip()) for v in many
  )


def is_numeric(comparison: Comparison) -> bool:
  """Whether a comparison is with a number."""
  value = comparison.value
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def time_mask(
  comparison: Comparison,
  times: np.ndarray,
  readable: np.ndarray,
  binding: str = "LogFiles.where",
) -> np.ndarray:
  """bool[n], for which times a comparison with a day or time holds.

  Args:
    comparison: Comparison of the time column.
    times: int64[n], unix milliseconds.
    readable: bool[n], which of them could be read.
    binding: The gin name of the condition, for messages.
  """
  if comparison.value is None:
    return ~readable if comparison.symbol == "==" else readable
  if comparison.symbol in ("in", "not in"):
    found = np.zeros(len(times), bool)
    for value in comparison.value:
      one = Comparison(comparison.column, "==", value)
      found |= time_mask(one, times, readable, binding)
    return found if comparison.symbol == "in" else ~found & readable
  try:
    limit = round(events_lib.milliseconds(comparison.value))
  except (TypeError, ValueError) as error:
    raise InputError(
      f"{binding}: the column {comparison.column!r} holds times; compare "
      f"it with a day or time such as '2024-01-31', not {comparison.value!r}."
    ) from error
  return _SYMBOLS[comparison.symbol](times, limit) & readable


def unreadable(
  column: pa.Array | pa.ChunkedArray,
  decimal: str,
  missing: Sequence[str],
) -> np.ndarray:
  """bool[n], which values are there, but are no number."""
  _, readable = numbers.parse(_numeric(column), decimal)
  if readable.all():
    return ~readable
  return ~readable & _to_numpy(values.ids(column, missing).is_valid())


def _truths(
  column: pa.Array | pa.ChunkedArray, missing: Sequence[str]
) -> pa.Array:
  """A column of truth values as text, whatever its type."""
  if pa.types.is_boolean(column.type):
    return column.cast(pa.large_string())
  return values.ids(column, missing)


def _is_number(value: str) -> bool:
  return re.fullmatch(r"\s*[-+]?\d+([.,]\d+)?\s*", value) is not None


def _numeric(column: pa.Array | pa.ChunkedArray) -> pa.Array:
  if pa.types.is_boolean(column.type):
    return column.cast(pa.int8())
  return column


def _leaves(tree: Any) -> list[Comparison]:
  if isinstance(tree, Comparison):
    return [tree]
  return [leaf for part in tree[1:] for leaf in _leaves(part)]


def _combine(
  tree: Any, masks: Mapping[Comparison, np.ndarray], length: int
) -> np.ndarray:
  if isinstance(tree, Comparison):
    return masks[tree]
  word, *parts = tree
  results = [_combine(part, masks, length) for part in parts]
  if word == "not":
    return ~results[0]
  combine = np.logical_and if word == "and" else np.logical_or
  found = np.full(length, word == "and")
  for result in results:
    found = combine(found, result)
  return found


def _to_numpy(array: pa.Array) -> np.ndarray:
  return array.to_numpy(zero_copy_only=False)
