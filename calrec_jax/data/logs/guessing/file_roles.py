"""Which files hold purchases, items and orders, and the roles of columns.

Names tell much, and values decide: a title says the same in all rows of an
item, the id by which two files are joined has values in both, a table of items
has each item once.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence

import pyarrow.compute as pc

from calrec_jax.data.logs.columns import column_names, id_rules
from calrec_jax.data.logs.guessing import id_columns, profile
from calrec_jax.data.logs.guessing.file_samples import Sampled
from calrec_jax.data.logs.guessing.profile import Profile
from calrec_jax.errors import InputError

TEXTS = ("title", "category", "brand", "price")
_ONCE = 0.9  # Share of rows with a new id in a table of items or orders.
_JOINED = 0.1  # Share of ids that two files have in common.
_BOUGHT = re.compile(
  "buy|bought|purchase|order|transaction|sale|kauf|bestell|compra|vente|achat"
)
_SEEN = re.compile("click|view|visit|session|search|impression|query|wish")


@dataclasses.dataclass
class Plan:
  """What each file and column is taken for.

  Attributes:
    interactions: Files of the purchases.
    items: Files of the items, or None.
    orders: Files of the orders, or None.
    unused: Files that are not read, with the reason.
    roles: Column of each role: of the purchases, or of their orders.
    item_id: Column of the items' ids in `items`.
    order_id: Column of the orders' ids in `interactions`.
    texts: Column of the items' texts by field.
    id_rules: Rules that spell the items' ids alike.
    others: Further columns that may have a role, by role.
    guessed: Roles that nothing but the place of their column tells.
    positions: Whether the column of the time holds positions.
  """

  interactions: Sampled
  items: Sampled | None = None
  orders: Sampled | None = None
  unused: list[tuple[Sampled, str]] = dataclasses.field(default_factory=list)
  roles: dict[str, str] = dataclasses.field(default_factory=dict)
  item_id: str | None = None
  order_id: str | None = None
  texts: dict[str, str] = dataclasses.field(default_factory=dict)
  id_rules: tuple[str, ...] = ()
  others: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  guessed: set[str] = dataclasses.field(default_factory=set)
  positions: bool = False

  def of(self, role: str) -> Profile:
    """The profile of the column of a role."""
    name = self.roles[role]
    if self.orders is not None and name not in self.interactions.profiles:
      return self.orders.profiles[name]
    return self.interactions.profiles[name]


def plan(files: Sequence[Sampled]) -> Plan:
  """Decides what each file and column is.

  Raises:
    InputError: If no file, or no two, have users and items.
  """
  tables = [file for file in files if _is_table_of_items(file, files)]
  rest = [file for file in files if file not in tables]
  logs = [
    file
    for file in rest
    if {"user", "item"} <= id_columns.users_and_items(file).keys()
  ]
  found = None if logs else _of_orders(files)
  if found is None:
    logs = logs or [
      file for file in rest if id_columns.with_only_one_left(file)
    ]
    if not logs:
      raise InputError(_nothing_found(files))
    main = max(logs, key=_preference)
    found = Plan(
      main,
      roles=id_columns.with_only_one_left(main)
      or id_columns.users_and_items(main),
    )
  main = found.interactions
  tables = [file for file in tables if file is not found.orders]
  tables = [file for file in tables if file is not main]
  if main.headless:
    found.guessed |= {"user", "item"}
  _add_items(found, tables)
  _add_roles(found)
  _add_texts(found)
  used = (main, found.items, found.orders)
  for file in files:
    if file not in used:
      found.unused.append((file, _why_unused(file, found, logs, tables)))
  return found


def _is_table_of_items(file: Sampled, files: Sequence[Sampled]) -> bool:
  """Whether rows describe items: each once, and no users or orders."""
  if file.sequences:
    return False
  if not file.headless:
    keys = _keys_of_items(file)
    users = [
      name for name in profile.ranked("user", file.profiles) if name not in keys
    ]
    return bool(keys) and not users
  first, *rest = file.profiles
  if file.profiles[first].unique < _ONCE or not rest:
    return False
  for other in files:
    if other is file:
      continue
    shares = [
      _share(other.profiles[name], file.profiles[first])
      for name in id_columns.users_and_items(other).values()
      if other.profiles[name].unique < _ONCE
    ]
    if max(shares, default=0) > 0.5:
      return True
  return False


def _keys_of_items(file: Sampled) -> list[str]:
  """Columns with the ids of a table of items, the likeliest first."""
  if file.headless:
    return list(file.profiles)[:1]
  return [
    name
    for name in profile.ranked("item", file.profiles)
    if file.profiles[name].unique >= _ONCE and file.profiles[name].missing < 0.5
  ]


def _preference(file: Sampled) -> tuple[object, ...]:
  """What speaks for a file as the one of the purchases."""
  name = os.path.basename(file.paths[0].rstrip("/")).lower()
  words = bool(_BOUGHT.search(name)) - bool(_SEEN.search(name))
  timed = bool(id_columns.times(file)) or file.sequences
  return (words, timed, file.size)


def _of_orders(files: Sequence[Sampled]) -> Plan | None:
  """The plan of a log in which purchases name an order; None if it is none."""
  for orders in files:
    users = profile.ranked("user", orders.profiles)
    for key in profile.ranked("order", orders.profiles, users[:1]):
      if not users or orders.profiles[key].unique < _ONCE:
        continue
      for lines in files:
        items = profile.ranked("item", lines.profiles)
        if lines is orders or key not in lines.profiles or not items:
          continue
        roles = {"user": users[0], "item": items[0], "order": key}
        return Plan(lines, orders=orders, roles=roles, order_id=key)
  return None


def _nothing_found(files: Sequence[Sampled]) -> str:
  """Says what the files hold, and what to set."""
  lists = [
    (file, name)
    for file in files
    for name, one in file.profiles.items()
    if one.is_lists
  ]
  if lists:
    file, name = lists[0]
    example = file.profiles[name].texts[0].as_py()[:60]
    return (
      f"{file.shown}: no column holds one item a row, and {name!r} holds "
      f"several ids in a text, such as {example!r}. LogFiles reads a user and "
      "an item per row, or lines of a user and items "
      '(LogFiles.format = "sequences"), or by LogFiles.item_column = '
      f'"{name}[]" each id of such a text. Write one row per user, item and '
      "time."
    )
  seen = []
  for file in files:
    roles = " and ".join(
      f"{r} {n!r}" for r, n in id_columns.users_and_items(file).items()
    )
    columns = ", ".join(map(repr, [*file.profiles][:16])) or "no columns"
    seen.append(f"{file.shown} has {columns} (found: {roles or 'neither'})")
  return (
    "No file has both a column that looks like users and one that looks like "
    f"items: {'; '.join(seen)}. Set LogFiles.user_column and "
    "LogFiles.item_column yourself, see gin/data/log.gin."
  )


def _add_items(found: Plan, tables: Sequence[Sampled]) -> None:
  """Finds the table of the items, and by which id it is joined."""
  main, best = found.interactions, None
  columns = _columns_of_items(found)
  for table in tables:
    for key in _keys_of_items(table):
      for place, name in enumerate(columns):
        here, there = main.profiles[name], table.profiles[key]
        rules = () if _share(here, there) > 0.9 else spelled(here, there)
        share = 1.0 if rules else _share(here, there)
        titled = bool(_texts_of(table, key).get("title"))
        score = (share >= 0.5, titled, round(share, 2), -place)
        if share >= _JOINED and (best is None or score > best[0]):
          best = (score, table, key, name, rules)
  if best is None:
    return
  (*_,), found.items, found.item_id, item, found.id_rules = best
  if main.headless and item == found.roles["user"]:
    found.roles["user"] = found.roles["item"]
  found.roles["item"] = item
  found.guessed.discard("item")
  if main.headless:
    found.guessed.discard("user")


def _columns_of_items(found: Plan) -> list[str]:
  """Columns of the purchases that may name the items."""
  main = found.interactions
  if main.headless or main.sequences:
    user, item = found.roles["user"], found.roles["item"]
    return [item, user] if main.headless else [item]
  ranked = profile.ranked("item", main.profiles, [found.roles["user"]])
  return list(dict.fromkeys([found.roles["item"], *ranked]))


def _share(here: Profile, there: Profile) -> float:
  """Share of the different ids of one column that are in another."""
  ids = pc.unique(here.texts)
  if not len(ids):
    return 0.0
  known = pc.is_in(ids, value_set=there.texts)
  return float(pc.sum(known).as_py() or 0) / len(ids)


def spelled(here: Profile, there: Profile) -> tuple[str, ...]:
  """The rules by which more ids of one column are in another, if any."""
  ids = pc.unique(here.texts)
  unknown = ids.filter(pc.invert(pc.is_in(ids, value_set=there.texts)))
  if len(unknown) < 0.05 * len(ids):
    return ()
  found = id_rules.spelling(unknown, there.texts)
  if found is None or found.matched < 0.5 * found.unknown:
    return ()
  return found.rules


def _add_roles(found: Plan) -> None:
  """Times, kinds, ratings, quantities and places of the purchases."""
  main, roles = found.interactions, found.roles
  if main.sequences:
    return
  file = found.orders or main
  _add_time(found, file)
  if main.headless:
    _add_unnamed(found)
  for role in ("kind", "rating", "quantity", "order", "position"):
    if role in roles:
      continue
    names = profile.ranked(role, main.profiles, roles.values())
    if names:
      roles[role] = names[0]
  if "kind" not in roles:
    kinds = [name for name, one in main.profiles.items() if one.kinds()]
    kinds = [name for name in kinds if name not in roles.values()]
    if kinds:
      roles["kind"] = kinds[0]
  for role in ("user", "item"):
    names = profile.ranked(role, main.profiles, roles.values())
    found.others[role] = [
      name
      for name in names
      if main.profiles[name].missing < 0.6
      and not id_columns.is_key(name, main.profiles[name])
    ][:3]


def _add_time(found: Plan, file: Sampled) -> None:
  skip = set(found.roles.values())
  names = profile.ranked("time", file.profiles, skip)
  if not names:
    names = [
      name
      for name in id_columns.times(file)
      if name not in skip
      and (file.headless or profile.may_be_time(file.profiles[name]))
    ]
  if names:
    found.roles["time"] = names[0]
    found.others["time"] = names[1:4]
    return
  for name, one in file.profiles.items():  # Such as 1111 for 11 November.
    named = column_names.rank("time", name)
    whole = one.is_numeric and not one.is_fractional and len(one.distinct) > 2
    if (
      named is not None
      and named < column_names.UNSURE
      and whole
      and name not in skip
    ):
      found.roles["time"], found.positions = name, True
      found.guessed.add("time")
      return
  if names := profile.ranked("position", file.profiles, skip):
    found.roles["time"], found.positions = names[0], True


def _add_unnamed(found: Plan) -> None:
  """Kinds and grades among columns without names, by their values."""
  roles = found.roles
  for name, one in found.interactions.profiles.items():
    if name in roles.values():
      continue
    if len(_known_kinds(one)) > 1:
      roles.setdefault("kind", name)
    elif one.is_grades():
      roles.setdefault("rating", name)


def _known_kinds(one: Profile) -> list[tuple[str, int]]:
  return one.kinds()


def _add_texts(found: Plan) -> None:
  """The columns that describe the items."""
  if found.items is not None:
    assert found.item_id is not None
    found.texts = _texts_of(found.items, found.item_id)
    return
  main, item = found.interactions, found.roles["item"]
  if main.sequences:
    return
  skip = [*found.roles.values()]
  found.texts = _texts_of(main, item, skip, repeated=True)


def _texts_of(
  file: Sampled, item: str, skip: Iterable[str] = (), repeated: bool = False
) -> dict[str, str]:
  """The columns of a file that describe its items, by field.

  Args:
    file: The file.
    item: Column of the items' ids.
    skip: Columns with other roles.
    repeated: Whether items are in many rows, which then must say the same.
  """
  taken, texts = {item, *skip}, {}
  within = item.rpartition(".")[0] if "[]" in item else ""
  for field in TEXTS:
    if file.headless:
      names = _unnamed_texts(file, field, taken)
    else:
      names = profile.ranked(field, file.profiles, taken)
      if field == "title":
        names.sort(key=lambda name: _names_another(name, item))
      names.sort(key=lambda name: not name.startswith(within))
    for name in names:
      one = file.profiles[name]
      if repeated and not profile.is_description(file.profiles[item], one):
        continue
      texts[field] = name
      taken.add(name)
      break
  return {} if [*texts] == ["price"] else texts


def _names_another(name: str, item: str) -> bool:
  """Whether a column names something else: `brewery_name`, of a `beer_id`."""
  rank = column_names.rank("title", name)
  words = {*column_names.as_words(name).split("_")}
  own = {*column_names.as_words(item).split("_")} - {"id"}
  return rank is not None and rank >= column_names.UNSURE and not words & own


def _unnamed_texts(
  file: Sampled, field: str, taken: Iterable[str]
) -> list[str]:
  """Title and category of columns without names: the first texts."""
  if field not in ("title", "category"):
    return []
  names = [n for n, one in file.profiles.items() if one.is_text]
  names = [name for name in names if name not in {*taken}]
  several = [
    n for n in names if file.profiles[n].unique > 0.5 or field != "title"
  ]
  return several or names


def _why_unused(
  file: Sampled, found: Plan, logs: Sequence[Sampled], tables: Sequence[Sampled]
) -> str:
  if file in logs:
    return (
      "also has users and items; to take it instead, name it alone in "
      "`calrec data guess`"
    )
  if file in tables:
    return "is another table of ids; one table of items is read"
  if profile.ranked("user", file.profiles):
    return "describes users; items are all that is recommended by"
  return "has neither users nor descriptions of the items"


def mapping(columns: Mapping[str, str]) -> dict[str, str]:
  """Columns by field, of those fields that are called otherwise."""
  return {field: name for field, name in columns.items() if field != name}
