"""Which columns of a file hold the ids of users and items, and times."""

from __future__ import annotations

from calrec_jax.data.logs.columns import column_names
from calrec_jax.data.logs.files import nested
from calrec_jax.data.logs.guessing import profile
from calrec_jax.data.logs.guessing.file_samples import Sampled
from calrec_jax.data.logs.guessing.profile import Profile

_REPEATED = 0.7  # Share of rows with a new title, if titles are like ids.
_ONCE = 0.9  # Share of rows with a new id, where ids are no users.


def users_and_items(file: Sampled) -> dict[str, str]:
  """The columns of users and items of a file, if it has them."""
  if file.sequences:
    user, item, *_ = file.profiles
    return {"user": user, "item": item}
  if file.headless:
    names = _like_ids(file)
    if len(names) == 1:  # Titles may be the items' ids.
      names += [name for name in _titles(file) if name != names[0]]
    if names and _numbers_users(file.profiles[names[0]]):
      names = []
    return dict(zip(("user", "item"), names, strict=False))
  users = profile.ranked("user", file.profiles)
  items = profile.ranked("item", file.profiles, users[:1])
  items = [
    name
    for name in items
    if not file.profiles[name].is_lists
    and not (users and is_key(name, file.profiles[name]))
  ]
  if not items:  # Texts may list them.
    items = [name for name in file.profiles if name.endswith(nested.EACH)]
  return {
    role: names[0]
    for role, names in (("user", users), ("item", items))
    if names
  }


def _titles(file: Sampled) -> list[str]:
  """Columns of texts that are in many rows each."""
  names = profile.ranked("title", file.profiles)
  return [
    name
    for name in ([*file.profiles] if file.headless else names)
    if file.profiles[name].is_text
    and file.profiles[name].unique < _REPEATED
    and not file.profiles[name].kinds()
  ]


def is_key(name: str, one: Profile) -> bool:
  """Whether a column is the id of its row: `_id` of MongoDB."""
  return column_names.as_words(name) == "id" and one.unique == 1


def with_only_one_left(file: Sampled) -> dict[str, str]:
  """Users, and the only other column that may be ids, whatever its name."""
  found = {} if file.headless or file.sequences else users_and_items(file)
  if "user" not in found or "item" in found:
    return {}
  left = [
    name
    for name in _like_ids(file)
    if name != found["user"]
    and all(
      column_names.rank(role, name) is None for role in column_names.ROLES
    )
  ]
  if len(left) != 1:
    left = _titles(file)[:1]
  return {**found, "item": left[0]} if left else {}


def _like_ids(file: Sampled) -> list[str]:
  """Columns that may be ids: no times, amounts, grades, kinds or texts."""
  found_times = times(file)
  found = []
  for name, one in file.profiles.items():
    if (
      name in found_times[:1]
      or (one.time is not None and not one.is_numeric)
      or one.is_fractional
      or one.is_lists
      or one.is_link
      or one.words > 1.2
      or len(one.distinct) < 2
      or one.kinds()
      or one.missing > 0.6
    ):
      continue
    found.append(name)
  small = [name for name in found[1:] if _is_small(file.profiles[name])]
  small.reverse()
  small.sort(key=lambda name: len(file.profiles[name].distinct))
  while len(found) > 2 and small:
    found.remove(small.pop(0))
  lists = any(one.is_lists for one in file.profiles.values())
  if len(found) > 2 or lists:  # The numbers of the rows are no ids.
    numbered = [n for n in found if _numbers_rows(file.profiles[n])]
    found = [name for name in found if name not in numbered[:1]]
  return found


def _is_small(one: Profile) -> bool:
  """Whether values are grades or counts rather than ids."""
  return one.is_numeric and (one.is_grades() or len(one.distinct) <= 12)


def _numbers_users(one: Profile) -> bool:
  """Whether no user would be there twice: then they are something else."""
  return one.unique >= _ONCE and len(one.texts) > 2


def _numbers_rows(one: Profile) -> bool:
  return one.is_numeric and one.unique == 1 and len(one.texts) > 2


def times(file: Sampled) -> list[str]:
  """Columns whose values are times, the likeliest first."""
  names = list(file.profiles)
  found = [name for name in names if file.profiles[name].time is not None]
  return sorted(
    found, key=lambda n: (file.profiles[n].is_numeric, -names.index(n))
  )
