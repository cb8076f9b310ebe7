"""A configuration for files that someone looks at for the first time.

It samples each file, guesses the role of its columns by their names and values,
and writes a gin file whose comments give the reasons. A guess is a start: the
card of the result shows whether it was right.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from calrec_jax.data.logs import log_checks, log_paths, read_options, tables
from calrec_jax.data.logs import profile as profile_lib
from calrec_jax.data.logs.profile import Profile
from calrec_jax.errors import InputError

_ROWS = 20_000
_FIELDS = ("title", "category", "brand", "price")
_MANY_KINDS = 1  # Other kinds than purchases, for a hint on target_where.


@dataclasses.dataclass(frozen=True, eq=False)
class Sampled:
  """A file, or several of one kind, and what their first rows hold.

  Attributes:
    path: The path as the user named it.
    how: How it was read, in words.
    sequences: Whether each line is a user and the items.
    columns: Names for the columns of a file without a header; empty if it has
      one.
    profiles: Profile of each column.
    roles: Column of each role that was found.
  """

  path: str
  how: str
  sequences: bool
  columns: tuple[str, ...]
  profiles: Mapping[str, Profile]
  roles: Mapping[str, str]

  @property
  def is_items(self) -> bool:
    """Whether rows describe items: each once, and no users."""
    item = self.roles.get("item")
    if item is None or "user" in self.roles:
      return False
    texts = self.profiles[item].texts
    return len(self.profiles[item].distinct) >= 0.9 * max(len(texts), 1)


def guess(paths: Sequence[str]) -> str:
  """The text of a gin file for some files of a log.

  Args:
    paths: Files of the purchases, and of the items and orders if there are
      any, in any order.

  Raises:
    InputError: If no file looks like purchases; the message lists what was
      found.
  """
  files = _merged([_sampled(path) for path in paths])
  interactions, items, orders = _parted(files)
  writer = _Writer(interactions, items, orders)
  return writer.text(paths)


def _sampled(path: str) -> Sampled:
  options = read_options.ReadOptions()
  first = log_paths.expand(path, None)[0]
  sample = tables.sample(first, options, _ROWS)
  columns: tuple[str, ...] = ()
  table = sample.table
  if sample.sequences:
    profiles = profile_lib.profiles(table, options.missing)
    roles = {"user": "user_id", "item": "item_id", "position": "position"}
    return Sampled(path, sample.how, True, (), profiles, roles)
  if sample.headless:
    numbered = tuple(f"column_{i + 1}" for i in range(len(table.column_names)))
    options = dataclasses.replace(options, columns=numbered)
    table = tables.sample(first, options, _ROWS).table
    profiles = profile_lib.profiles(table, options.missing)
    roles = profile_lib.roles_by_values(profiles)
    columns, profiles, roles = _named(profiles, roles)
  else:
    profiles = profile_lib.profiles(table, options.missing)
    roles = profile_lib.roles(profiles)
  return Sampled(path, sample.how, False, columns, profiles, roles)


_DEFAULT_NAMES = {
  "user": "user_id",
  "item": "item_id",
  "time": "timestamp",
  "rating": "rating",
  "title": "title",
  "category": "category",
}


def _named(
  profiles: Mapping[str, Profile], roles: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, Profile], dict[str, str]]:
  """Names columns by their roles, and the others by their place."""
  roles = dict(roles)
  first = next(iter(profiles))
  texts = profiles[first].texts
  unique = len(profiles[first].distinct) == len(texts)
  if unique and roles.get("user") == first and "time" not in roles:
    roles = _item_roles(profiles)
  names = {column: _DEFAULT_NAMES[role] for role, column in roles.items()}
  columns = tuple(names.get(column, column) for column in profiles)
  renamed = {
    new: dataclasses.replace(profile, name=new)
    for new, profile in zip(columns, profiles.values(), strict=True)
  }
  return (
    columns,
    renamed,
    {role: names[column] for role, column in roles.items()},
  )


def _item_roles(profiles: Mapping[str, Profile]) -> dict[str, str]:
  """The roles in a table of items without a header: id, title, category."""
  first, *rest = profiles
  texts = [name for name in rest if not profiles[name].is_numeric]
  return {"item": first} | dict(zip(("title", "category"), texts, strict=False))


def _merged(files: list[Sampled]) -> list[Sampled]:
  """Files of the same columns, such as months, as one list of files."""
  return files


def _parted(
  files: list[Sampled],
) -> tuple[list[Sampled], list[Sampled], list[Sampled]]:
  """The files of purchases, items and orders."""
  items = [file for file in files if file.is_items]
  rest = [file for file in files if not file.is_items]
  whole = [f for f in rest if {"user", "item"} <= set(f.roles)]
  if whole:
    return whole, items, []
  orders = [f for f in rest if {"user", "order"} <= set(f.roles)]
  lines = [f for f in files if {"item", "order"} <= set(f.roles)]
  if orders and lines:
    return lines, [f for f in items if f not in lines], orders
  found = "; ".join(
    f"{file.path} ({file.how}): {', '.join(file.profiles)}" for file in files
  )
  raise InputError(
    "None of the files has a column that looks like users and one that looks "
    f"like items. Found {found}. Set LogFiles.user_column and "
    "LogFiles.item_column yourself, see gin/data/log.gin."
  )


class _Writer:
  """Writes the bindings with their reasons."""

  def __init__(
    self,
    interactions: list[Sampled],
    items: list[Sampled],
    orders: list[Sampled],
  ) -> None:
    self._interactions, self._items, self._orders = interactions, items, orders
    self._lines: list[str] = []

  def text(self, paths: Sequence[str]) -> str:
    """The whole file."""
    main = self._interactions[0]
    name = pathlib.Path(main.path.rstrip("/")).name.partition(".")[0]
    self._say(f"# Written by: calrec data guess {' '.join(paths)}")
    self._say("# A guess by names and values of the first rows. Look at")
    self._say("#   calrec data card --gin_file=THIS_FILE")
    self._lines += ["", 'include "recipes/own_log.gin"', ""]
    slug = "".join(c if c.isalnum() else "_" for c in name.lower()).strip("_")
    slug = slug if slug[:1].isalpha() else f"log_{slug}".strip("_")
    self._bind("MIXTURE_OR_TASK_NAME", slug)
    self._files()
    self._columns(main)
    self._times(main)
    self._filters(main)
    self._texts()
    return "\n".join(self._lines) + "\n"

  def _say(self, text: str) -> None:
    self._lines.append(text)

  def _bind(self, name: str, value: object, why: str = "") -> None:
    if why:
      self._say(f"# {why}")
    self._say(f"{name} = {_literal(value)}")

  def _files(self) -> None:
    for binding, files in (
      ("INTERACTIONS", self._interactions),
      ("ITEMS", self._items),
      ("LogFiles.orders", self._orders),
    ):
      if not files:
        continue
      self._say("")
      for file in files:
        self._say(f"# {file.path}: {file.how}")
      paths = [file.path for file in files]
      self._bind(binding, paths[0] if len(paths) == 1 else paths)
      setting = {"INTERACTIONS": "columns", "ITEMS": "item_columns"}.get(
        binding, "order_columns"
      )
      if files[0].columns:
        self._bind(
          f"LogFiles.{setting}",
          files[0].columns,
          "The first row looks like data, so these names are made up.",
        )

  def _columns(self, main: Sampled) -> None:
    self._say("")
    if main.sequences:
      self._bind(
        "LogFiles.format", "sequences", "Each line: a user, the items."
      )
      return
    users = self._orders[0] if self._orders else main
    self._column("user", users, "user_id")
    self._column("item", main, "item_id")
    if self._items:
      id_column = self._items[0].roles["item"]
      if id_column != main.roles["item"]:
        self._bind(
          "LogFiles.item_id_column",
          id_column,
          f"as {self._items[0].path} has it",
        )
    if self._orders and main.roles["order"] != "order_id":
      self._bind("LogFiles.order_id_column", main.roles["order"])

  def _column(self, role: str, file: Sampled, default: str) -> None:
    name = file.roles[role]
    profile = file.profiles[name]
    why = (
      f"{len(profile.distinct):,} different values in {len(profile.texts):,} "
      f"rows, such as {profile.distinct[0][0]!r}"
    )
    self._say(f"# {role}: {name}, {why}")
    if name != default:
      self._bind(f"LogFiles.{role}_column", name)

  def _times(self, main: Sampled) -> None:
    file = self._orders[0] if self._orders else main
    time = file.roles.get("time")
    self._say("")
    if main.sequences:
      self._bind("LogFiles.time_column", "position")
      self._bind("LogFiles.time_unit", "order")
    elif time is None and self._orders and "position" in file.roles:
      self._bind("LogFiles.time_column", file.roles["position"])
      self._bind("LogFiles.time_unit", "order", "The order of a user's orders.")
    elif time is None:
      self._bind(
        "LogFiles.time_column",
        None,
        "No column looks like times: the order of the rows, oldest first.",
      )
    else:
      profile = file.profiles[time]
      self._say(f"# time: {time}, read as {profile.time}")
      if time != "timestamp":
        self._bind("LogFiles.time_column", time)
    if (position := main.roles.get("position")) and not main.sequences:
      self._bind("LogFiles.order_column", position, "The lines of a basket.")

  def _filters(self, main: Sampled) -> None:
    conditions = []
    kind = main.roles.get("kind")
    if kind is not None:
      kinds = main.profiles[kind].kinds()
      shown = ", ".join(f"{value} ({count:,})" for value, count in kinds)
      binding = log_checks.purchase_condition(kind, kinds)
      condition = binding.partition(" = ")[2].strip("'")
      self._say("")
      self._say(f"# {kind} holds kinds of event: {shown}. To have the other")
      self._say(
        "# kinds in the history, too, bind these two instead of `where`:"
      )
      self._say(f"#   LogFiles.event_column = {_literal(kind)}")
      self._say(f"#   LogFiles.target_where = {_literal(condition)}")
      conditions.append(condition)
    quantity = main.roles.get("quantity")
    if quantity and (main.profiles[quantity].numbers <= 0).any():
      self._say(f"# {quantity} has values that are not positive: returns.")
      conditions.append(f"{log_checks.quoted(quantity)} > 0")
    if conditions:
      self._bind("LogFiles.where", " and ".join(conditions))
    if rating := main.roles.get("rating"):
      binding = log_checks.rating_condition(rating, main.profiles[rating])
      self._say("")
      self._say(f"# {rating} looks like ratings. To count only good ones:")
      self._say(f"#   {binding}")

  def _texts(self) -> None:
    described = self._items[0] if self._items else self._interactions[0]
    columns = {
      field: described.roles[field]
      for field in _FIELDS
      if field in described.roles
    }
    self._say("")
    if not columns:
      item = described.roles["item"]
      self._bind(
        "Domain.fields",
        (("Item", item),),
        "No column looks like titles: the ids are the items' text.",
      )
      return
    renamed = {field: name for field, name in columns.items() if field != name}
    for field, name in columns.items():
      examples = described.profiles[name].distinct
      example = f", such as {examples[0][0][:60]!r}" if examples else ""
      self._say(f"# {field}: {name}{example}")
    if renamed:
      self._bind("LogFiles.text_columns", renamed)


def _literal(value: object) -> str:
  """A value as gin reads it."""
  if isinstance(value, str):
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
  if isinstance(value, dict):
    pairs = (f"{_literal(k)}: {_literal(v)}" for k, v in value.items())
    return "{" + ", ".join(pairs) + "}"
  if isinstance(value, (tuple, list)):
    parts = [_literal(part) for part in value]
    return "(" + ", ".join(parts) + ("," if len(parts) == 1 else "") + ")"
  return repr(value)
