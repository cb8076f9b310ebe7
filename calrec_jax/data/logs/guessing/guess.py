"""A configuration for files that someone looks at for the first time.

It samples each file, guesses the role of its columns by their names and values,
and writes a gin file whose comments give the reasons. A guess is a start: the
card of the result shows whether it was right.
"""

from __future__ import annotations

import pathlib
import re
import textwrap
from collections.abc import Mapping, Sequence

from calrec_jax.data.logs.columns import column_names
from calrec_jax.data.logs.files import read_options
from calrec_jax.data.logs.guessing import (
  file_roles,
  file_samples,
  log_checks,
  profile,
)
from calrec_jax.data.logs.guessing.file_samples import Sampled

_WIDTH = 78
_SHOWN = 60  # Characters of an example.
_MANY_MISSING = 0.2
_NAMES = {
  "user": "user_id",
  "item": "item_id",
  "time": "timestamp",
  "rating": "rating",
  "kind": "event",
}
_FILES = {
  "interactions": ("INTERACTIONS", "columns", "purchases"),
  "items": ("ITEMS", "item_columns", "items"),
  "orders": ("LogFiles.orders", "order_columns", "orders"),
}
_BINDINGS = {"user": "user_column", "item": "item_column"}


def guess(paths: Sequence[str]) -> str:
  """The text of a gin file for some files of a log.

  Args:
    paths: Files of the purchases, and of the items and orders if there are
      any, in any order.

  Raises:
    InputError: If no file looks like purchases; the message lists what was
      found.
  """
  samples = [each for path in paths for each in file_samples.samples(path)]
  files = file_samples.merged(samples)
  plan = file_roles.plan(files)
  return _Writer(plan).text(paths)


class _Writer:
  """Writes the bindings with their reasons."""

  def __init__(self, plan: file_roles.Plan) -> None:
    self._plan, self._lines = plan, list[str]()
    self._missing: list[str] = []
    # Names of columns as they are bound; those without a header get some.
    self._main = _named(plan.interactions, plan.roles)
    self._items = {}
    if plan.items is not None:
      roles = {"item": plan.item_id or "", **plan.texts}
      self._items = _named(plan.items, roles)

  def text(self, paths: Sequence[str]) -> str:
    """The whole file."""
    plan = self._plan
    self._say(f"Written by: calrec data guess {' '.join(map(_shown, paths))}")
    self._say(
      "It is a guess by the names and values of the first rows: read it, mend "
      "it, and look at the result with calrec data card --gin_file=THIS_FILE"
    )
    self._lines += ["", 'include "recipes/own_log.gin"', ""]
    self._bind("MIXTURE_OR_TASK_NAME", slug(plan.interactions.paths[0]))
    self._files()
    if plan.interactions.sequences:
      self._sequences()
    else:
      self._columns()
      self._times()
      self._filters()
    self._texts()
    return "\n".join(self._lines) + "\n"

  def _say(self, text: str) -> None:
    self._lines += textwrap.wrap(
      text,
      _WIDTH,
      initial_indent="# ",
      subsequent_indent="# ",
      break_long_words=False,
      break_on_hyphens=False,
    )

  def _say_binding(self, name: str, value: object) -> None:
    """A binding that is not in force."""
    self._lines.append(f"#   {name} = {literal(value)}")

  def _bind(self, name: str, value: object) -> None:
    self._lines.append(f"{name} = {literal(value)}")

  def _space(self) -> None:
    if self._lines[-1]:
      self._lines.append("")

  def _files(self) -> None:
    plan = self._plan
    for kind, (binding, setting, holds) in _FILES.items():
      file = getattr(plan, kind)
      if file is None:
        continue
      self._space()
      for path, how in zip(file.paths, file.how, strict=True):
        self._say(f"{holds}: {_shown(path)}, read as {_shown(how)}")
      paths = list(file.paths)
      self._bind(binding, paths[0] if len(paths) == 1 else paths)
      if file.headless:
        names = self._items if kind == "items" else self._main
        self._say(
          "Its first row looks like data, so these names are made up, one for "
          "each column in order."
        )
        self._bind(f"LogFiles.{setting}", tuple(names.values()))
    for file, why in plan.unused:
      self._say(f"Not read: {', '.join(map(_shown, file.paths))}, which {why}.")

  def _sequences(self) -> None:
    self._space()
    self._say("Each line: a user and then the items, oldest first.")
    self._bind("LogFiles.format", "sequences")
    if self._plan.item_id and self._items[self._plan.item_id] != "item_id":
      self._bind("LogFiles.item_id_column", self._items[self._plan.item_id])

  def _name(self, column: str) -> str:
    return self._main.get(column, column)

  def _columns(self) -> None:
    plan = self._plan
    for role in ("user", "item"):
      self._space()
      self._column(role)
    if self._missing:
      missing = dict.fromkeys([*read_options.MISSING, *self._missing])
      self._bind("LogFiles.missing", tuple(missing))
    if plan.items is not None and plan.item_id is not None:
      there, here = self._items[plan.item_id], self._name(plan.roles["item"])
      if there != here:
        self._say(f"The same ids in {plan.items.shown}:")
        self._bind("LogFiles.item_id_column", there)
    if plan.id_rules:
      self._say(
        "The ids are written differently in the two files; so they are alike:"
      )
      self._bind("LogFiles.id_rules", plan.id_rules)
    if plan.order_id is not None:
      self._space()
      self._say(
        f"{_shown(plan.order_id)} names the order; user and time are those of "
        "the order."
      )
      if plan.order_id != "order_id":
        self._bind("LogFiles.order_id_column", plan.order_id)

  def _column(self, role: str) -> None:
    plan, one = self._plan, self._plan.of(role)
    name = self._name(plan.roles[role])
    example = _shown(one.distinct[0][0]) if one.distinct else "none"
    self._say(
      f"{role}: {_shown(name)}, {len(one.distinct):,} different values in the "
      f"first {len(one.ids):,} rows, such as {example}"
    )
    if one.missing > _MANY_MISSING:
      self._say(
        f"{one.missing:.0%} of them are empty: such rows are counted and "
        "skipped."
      )
    if one.absent is not None and one.absent not in read_options.MISSING:
      self._say(
        f"Many rows have {_shown(one.absent)}, which seems to mean that none "
        "is known: such rows are counted and skipped."
      )
      self._missing.append(one.absent)
    if role in plan.guessed:
      if role == "user":
        self._say(
          "By its place only: users are taken to come before items. If it is "
          "the other way round, exchange the two names in LogFiles.columns."
        )
    elif others := plan.others.get(role):
      shown = " or ".join(_shown(self._name(other)) for other in others)
      self._say(f"It could be {shown}, too.")
    default = _NAMES[role]
    if name != default:
      self._bind(f"LogFiles.{_BINDINGS[role]}", name)

  def _times(self) -> None:
    roles = self._plan.roles
    self._space()
    if "time" in roles:
      self._time(self._name(roles["time"]))
    else:
      self._say(
        "No column looks like times, so the order of the rows is taken, oldest "
        "first. If the rows are in another order, what is predicted is not "
        "what came next: name the column of the time here."
      )
      self._bind("LogFiles.time_column", None)
    self._order()
    self._fill_down()

  def _time(self, name: str) -> None:
    plan = self._plan
    one = plan.of("time")
    if "time" in plan.guessed:
      self._say(
        f"time: {_shown(name)}, numbers such as {_shown(one.distinct[0][0])}, "
        "which are no times of our days. They are taken as positions: the "
        "greater, the later."
      )
    elif plan.positions:
      self._say(
        f"No column looks like times. {_shown(name)} numbers what a user "
        "bought: the greater, the later."
      )
    else:
      example = _shown(one.texts[0].as_py())
      self._say(f"time: {_shown(name)}, {one.time}, such as {example}")
    if others := plan.others.get("time"):
      shown = " or ".join(_shown(self._name(other)) for other in others)
      self._say(f"It could be {shown}, too.")
    if name != "timestamp":
      self._bind("LogFiles.time_column", name)
    if plan.positions:
      self._bind("LogFiles.time_unit", "order")

  def _order(self) -> None:
    roles, main = self._plan.roles, self._plan.interactions
    position = roles.get("position")
    if position in main.profiles and ("time" in roles or self._plan.order_id):
      assert position is not None
      name = self._name(position)
      self._say(f"{_shown(name)} orders purchases of the same time.")
      self._bind("LogFiles.order_column", name)

  def _fill_down(self) -> None:
    plan, columns = self._plan, []
    found = plan.interactions.profiles
    for role in ("user", "time"):
      name = plan.roles.get(role)
      if name is None or name not in found or not found[name].missing:
        continue
      if key := profile.written_once(found[name], found):
        self._say(
          f"{_shown(self._name(name))} is only in the first row of each "
          f"{_shown(self._name(key))}: empty values are those of the row above."
        )
        columns.append(self._name(name))
    if columns:
      self._bind("LogFiles.fill_down", tuple(columns))

  def _filters(self) -> None:
    plan, conditions = self._plan, []
    if "kind" in plan.roles:
      self._space()
      conditions.append(self._kinds(self._name(plan.roles["kind"])))
    if "quantity" in plan.roles:
      one = plan.of("quantity")
      if (one.numbers <= 0).any():
        name = self._name(plan.roles["quantity"])
        self._say(f"{_shown(name)} is not always positive: returns.")
        conditions.append(f"{log_checks.quoted(name)} > 0")
    if conditions:
      self._bind("LogFiles.where", " and ".join(conditions))
    for name, one in plan.interactions.profiles.items():
      if one.is_codes() and name not in plan.roles.values():
        self._codes(self._name(name), one)
    if "rating" in plan.roles:
      name = self._name(plan.roles["rating"])
      self._space()
      self._say(
        f"{_shown(name)} looks like ratings. All rows count as purchases; to "
        "take only good ones:"
      )
      condition = log_checks.rating_condition(name, plan.of("rating"))
      self._say_binding("LogFiles.where", condition)

  def _kinds(self, name: str) -> str:
    kinds = self._plan.of("kind").kinds()
    shown = ", ".join(f"{_shown(value)} ({count:,})" for value, count in kinds)
    condition = log_checks.purchase_condition(name, kinds)
    self._say(f"{_shown(name)} holds kinds of event: {shown}.")
    if not any(profile.is_purchase(value) for value, _ in kinds):
      self._say("None is surely a purchase: name the right one here.")
    self._say(
      "To have the other kinds in the history, bind these two instead of "
      "LogFiles.where:"
    )
    self._say_binding("LogFiles.event_column", name)
    self._say_binding("LogFiles.target_where", condition)
    return condition

  def _codes(self, name: str, one: profile.Profile) -> None:
    shown = ", ".join(f"{code} ({n:,})" for code, n in one.distinct[:8])
    self._space()
    self._say(
      f"{_shown(name)} may be kinds of event as numbers: {shown}. All rows "
      "count as purchases; if only one number is a purchase, bind it:"
    )
    value = one.distinct[-1][0]
    self._say_binding("LogFiles.where", f"{log_checks.quoted(name)} == {value}")

  def _texts(self) -> None:
    plan, texts = self._plan, self._plan.texts
    file = plan.items or plan.interactions
    names = self._items if plan.items is not None else self._main
    self._space()
    if not texts:
      item = plan.item_id if plan.items is not None else plan.roles["item"]
      self._say(
        "No column looks like titles, so the ids are the items' text, by which "
        "a language model learns little. Name a file of the items in "
        "`calrec data guess`, if there is one."
      )
      self._bind("Domain.fields", (("Item", names.get(item or "", item)),))
      return
    for field, column in texts.items():
      examples = file.profiles[column].distinct
      example = f", such as {_shown(examples[0][0])}" if examples else ""
      self._say(f"{field}: {_shown(names.get(column, column))}{example}")
    if "title" not in texts:
      self._say(
        "No column looks like titles: items of the same text cannot be told "
        "apart."
      )
    columns = {field: names.get(name, name) for field, name in texts.items()}
    columns = file_roles.mapping(columns)
    if columns:
      self._bind("LogFiles.text_columns", columns)


def _named(file: Sampled, roles: Mapping[str, str]) -> dict[str, str]:
  """The name to be bound for each column."""
  if not file.headless:
    return {name: name for name in file.profiles}
  named = {column: _NAMES.get(role, role) for role, column in roles.items()}
  return {name: named.get(name, name) for name in file.profiles}


def slug(path: str) -> str:
  """A file's name as a domain's: small letters, digits, underscores."""
  name = pathlib.PurePath(path.rstrip("/")).name.partition(".")[0]
  found = re.sub("[^a-z0-9]+", "_", column_names.as_words(name)).strip("_")
  if not re.match("[a-z]", found) or found == "all":  # "all" are all domains.
    found = f"log_{found}".strip("_")
  return found


def _shown(text: str) -> str:
  """A text for a comment, on one line."""
  text = " ".join(text.split()) if text.strip() else text
  text = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
  plain = text.isprintable() and text.strip() == text and text
  return text if plain else ascii(text)


def literal(value: object) -> str:
  """A value as gin reads it."""
  if isinstance(value, str):
    shown = repr(value) if _can_be_written(value) else ascii(value)
    if shown.startswith("'") and '"' not in shown:
      return '"' + shown[1:-1] + '"'
    return shown
  if isinstance(value, dict):
    pairs = (f"{literal(k)}: {literal(v)}" for k, v in value.items())
    return "{" + ", ".join(pairs) + "}"
  if isinstance(value, list):
    return "[" + ", ".join(map(literal, value)) + "]"
  if isinstance(value, tuple):
    parts = list(map(literal, value))
    return "(" + ", ".join(parts) + ("," if len(parts) == 1 else "") + ")"
  return repr(value)


def _can_be_written(text: str) -> bool:
  return not any(0xD800 <= ord(letter) < 0xE000 for letter in text)
