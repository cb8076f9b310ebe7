"""Which rows of a log count: a small language of comparisons.

`event == "purchase" and rating >= 4 and quantity > 0`: Python's syntax for
comparisons of columns with constants, `in`, `not in`, `and`, `or`, `not` and
parentheses. The text is parsed, never evaluated; `where_masks` says for which
rows each comparison holds.
"""

from __future__ import annotations

import ast
import dataclasses
import keyword
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from calrec_jax.errors import InputError

_GRAMMAR = (
  "Texts stand in quotes, a column whose name is not one word in backticks "
  "(`event type`); and, or, not join comparisons by == != < <= > >= in."
)
_EXAMPLE = "event == \"purchase\" and rating >= 4 and date >= '2024-01-01'"
# Backticks within a text are part of it.
_QUOTED = re.compile(
  r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`(?P<name>[^`]+)`"""
)
_SQL = re.compile(r"\b(?:AND|OR|NOT|LIKE|IN|IS|BETWEEN)\b|&&|\|\||<>")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?")
_WORDS = {"and", "or", "not", "in", "is", "None", "True", "False"}
_SHOWN = 200  # Characters of a condition in a message.
_SYMBOLS: Mapping[type[ast.cmpop], str] = {
  ast.Eq: "==",
  ast.NotEq: "!=",
  ast.Lt: "<",
  ast.LtE: "<=",
  ast.Gt: ">",
  ast.GtE: ">=",
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


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
  # True equals 1, but is another constant.
  written: str = dataclasses.field(init=False)

  def __post_init__(self) -> None:
    object.__setattr__(self, "written", repr(self.value))

  def is_of_numbers(self) -> bool:
    """Whether a constant is a number, which a truth value is not."""
    constants = self.value if isinstance(self.value, tuple) else (self.value,)
    return any(
      isinstance(each, (int, float)) and not isinstance(each, bool)
      for each in constants
    )


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
      if leaf.symbol in (">", ">=") and leaf.is_of_numbers()
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


def is_day(comparison: Comparison) -> bool:
  """Whether a comparison is with a day or time, as ISO 8601 writes them."""
  value = comparison.value
  many = value if isinstance(value, tuple) else (value,)
  return bool(many) and all(
    isinstance(v, str) and _DAY.fullmatch(v.strip()) for v in many
  )


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
  try:
    return _Reader(text, binding).where()
  except (RecursionError, MemoryError) as error:
    raise InputError(
      f"{binding} = {text[:_SHOWN]!r}… has too many parts in one another."
    ) from error


class _Reader:
  """Reads a condition as comparisons."""

  def __init__(self, text: str, binding: str) -> None:
    self._text, self._binding = text, binding
    self._names: dict[str, str] = {}  # By the word that stands for them.
    # Gin continues texts over several lines.
    named = _QUOTED.sub(self._stand_in, text)
    self._source = " ".join(named.split("\n")).strip()

  def _stand_in(self, match: re.Match[str]) -> str:
    if match["name"] is None:
      return match[0]
    name = f"quoted_name_{len(self._names)}"
    while name in self._text:
      name += "_"
    self._names[name] = match["name"]
    return name

  def where(self) -> Where:
    """The whole condition."""
    try:
      tree = ast.parse(self._source, mode="eval").body
    except (SyntaxError, ValueError) as error:
      raise self._syntax_error(error) from error
    parts: list[ast.expr] = [tree]
    if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And):
      parts = tree.values
    return Where(
      self._binding,
      tuple(Clause(self._written(part), self.read(part)) for part in parts),
    )

  def _written(self, node: ast.AST) -> str:
    """The text of a node, as it was written."""
    return self._restored(
      ast.get_source_segment(self._source, node) or self._source
    )

  def _restored(self, part: str) -> str:
    for name, original in self._names.items():
      part = part.replace(name, f"`{original}`")
    return part

  def _syntax_error(self, error: SyntaxError | ValueError) -> InputError:
    """Says from where on the text is no condition, and what may be meant."""
    outside = _QUOTED.sub(" ", self._text)
    reserved = [
      word
      for word in re.findall(r"\w+", outside)
      if keyword.iskeyword(word) and word not in _WORDS
    ]
    hint = ""
    if _SQL.search(outside):
      hint = " Words are written and, or, not, in; inequality !=."
    elif re.search("[^=<>!]=[^=]", outside):
      hint = " Equality is written ==."
    elif reserved:
      hint = f" Write the name {reserved[0]!r} in backticks: `{reserved[0]}`."
    offset = getattr(error, "offset", None) or 1
    rest = self._restored(self._source[offset - 1 :])
    place = f", from {rest[:40]!r} on" if rest else ", at its end"
    return InputError(
      f"{self._binding} = {self._text[:_SHOWN]!r} is not a condition"
      f"{place}.{hint} {_GRAMMAR} An example: {_EXAMPLE}"
    )

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
        node,
        f"it names the column {name!r} without comparing it, as in {name} == 1",
      )
    raise self._error(
      node, "only comparisons of columns with constants are allowed"
    )

  def _comparison(self, left: ast.AST, op: ast.cmpop, right: ast.expr) -> Any:
    if isinstance(op, (ast.Is, ast.IsNot)):
      op = ast.Eq() if isinstance(op, ast.Is) else ast.NotEq()
    column, other = self._name(left), self._name(right)
    if isinstance(op, (ast.In, ast.NotIn)):
      values_ = self._constant(right)
      if isinstance(values_, str) and self._in_parentheses(right):
        values_ = (values_,)  # A list of one without its comma.
      if column is None or not isinstance(values_, tuple):
        raise self._error(
          left, '`in` needs a column and a list: event in ("a", "b")'
        )
      return Comparison(
        column, "in" if isinstance(op, ast.In) else "not in", values_
      )
    symbol = _SYMBOLS[type(op)]
    if (column is None) == (other is None):
      raise self._error(
        left if column is None else right,
        "each comparison is of one column with one constant",
      )
    if column is None:
      assert other is not None
      return self._checked(
        left, Comparison(other, _MIRRORED[symbol], self._constant(left))
      )
    return self._checked(
      right, Comparison(column, symbol, self._constant(right))
    )

  def _in_parentheses(self, node: ast.expr) -> bool:
    line = self._source.splitlines()[node.lineno - 1].encode()
    return line[: node.col_offset].rstrip().endswith(b"(")

  def _checked(self, node: ast.AST, comparison: Comparison) -> Comparison:
    if isinstance(comparison.value, tuple):
      raise self._error(node, "a list of constants needs `in`")
    plain = comparison.value is None or isinstance(comparison.value, bool)
    if plain and comparison.symbol not in ("==", "!="):
      raise self._error(
        node, f"{comparison.value} can only be compared by == !="
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
        node, "each comparison is of one column with one constant"
      ) from error
    value = tuple(value) if isinstance(value, (list, set, tuple)) else value
    for part in value if isinstance(value, tuple) else (value,):
      if part is not None and not isinstance(part, (str, int, float)):
        raise self._error(node, f"{part!r} is neither a number nor a text")
    return value

  def _error(self, node: ast.AST, why: str) -> InputError:
    return InputError(
      f"{self._binding} = {self._text[:_SHOWN]!r}: {why}, at "
      f"{self._written(node)[:40]!r}. {_GRAMMAR} An example: {_EXAMPLE}"
    )


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
