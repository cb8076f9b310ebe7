"""What the columns of a log look like: users, items, times, kinds, ratings.

A first guess, by the names and the values of a sample of rows. `guess` writes a
configuration by it, and `log_checks` asks about columns that nothing reads.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import dataclasses
import functools
import re
import time
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs.columns import (
  arrow_columns,
  column_names,
  numbers,
  times,
  values,
)

PURCHASES = (
  *("purchase", "purchased", "buy", "bought", "transaction", "order", "pay"),
  *("paid", "sale", "sold", "checkout", "conversion", "kauf", "compra"),
  *("achat", "acquisto", "aankoop", "completed", "complete", "paye", "pagado"),
)
# Purchases that were undone or never done.
_UNDONE = (
  *(
    "refund",
    "return",
    "cancel",
    "void",
    "fail",
    "storno",
    "retour",
    "chargeb",
  ),
  *("pending", "on-hold", "abandon", "remove", "devol", "annul", "remboursé"),
)
_VIEWS = {
  *("view", "click", "cart", "add", "addtocart", "add_to_cart", "addtobasket"),
  *("remove_from_cart", "pv", "fav", "favorite", "wish", "wishlist", "like"),
  *("impression", "detail", "play", "skip", "search", "detail_view", "read"),
  *("page_view", "view_item", "item_page_view", "clk", "collect", "clic"),
  *("product_view", "product_detail_view", "add_to_wishlist", "begin_checkout"),
}
_ABSENT = {
  *("", "0", "-1", "na", "n/a", "#n/a", "nan", "null", "none", "unknown"),
  *("unbekannt", "anonymous", "guest", "gast", "(not set)", "undefined", "-"),
  *("desconocido", "inconnu", "sconosciuto", "onbekend", "missing", "(null)"),
}
_MANY = 0.1  # Share of rows with one value that then means none.
_MAX_KINDS = 40
_MAX_RATINGS = 21
_SAMPLE_TIMES = 2000
_CONSISTENT = 0.8  # Share of an item's rows that describe it alike.
_SURE = 10  # Rank of names that mean kinds of event whatever they hold.
_MANY_WORDS = 3
_MOST_WORDS = 4  # Of a kind of event.
_CODE = re.compile(r"(?=\S*\d)[\w:-]{6,}", re.ASCII)  # Ids rather than words.
_URL = re.compile(r"(https?:)?//|www\.|data:")


@dataclasses.dataclass(frozen=True, eq=False)
class Profile:
  """A column of a sample.

  Attributes:
    name: Name of the column.
    column: Its values as they are.
    ids: The same as text, null where missing.
  """

  name: str
  column: pa.Array
  ids: pa.Array

  @functools.cached_property
  def texts(self) -> pa.Array:
    """The values that are there, as text."""
    return self.ids.drop_null()

  @property
  def missing(self) -> float:
    """Share of the rows without a value."""
    return self.ids.null_count / max(len(self.ids), 1)

  @functools.cached_property
  def distinct(self) -> list[tuple[str, int]]:
    """The values with their counts, the most frequent first."""
    counts = pc.value_counts(self.texts).to_pylist()
    pairs = [(str(each["values"]), each["counts"]) for each in counts]
    return sorted(pairs, key=lambda pair: -pair[1])

  @property
  def absent(self) -> str | None:
    """The value that stands for a missing one in many rows, if one does."""
    if not self.distinct:
      return None
    value, count = self.distinct[0]
    many = count > _MANY * len(self.ids) and len(self.distinct) > 2
    return value if many and value.lower() in _ABSENT else None

  @property
  def unique(self) -> float:
    """Number of the different values per value."""
    return len(self.distinct) / max(len(self.texts), 1)

  @functools.cached_property
  def numbers(self) -> np.ndarray:
    """float64[m], the values that are numbers."""
    sign = numbers.style(self.column) or "."
    found, readable = numbers.parse(self.column, sign)
    return found[readable]

  @property
  def is_numeric(self) -> bool:
    """Whether nearly all values are numbers."""
    return len(self.numbers) >= 0.95 * max(len(self.texts), 1)

  @property
  def is_fractional(self) -> bool:
    """Whether values are numbers that are not whole: amounts, no ids."""
    if not self.is_numeric or not len(self.numbers):
      return False
    whole = self.numbers == np.round(self.numbers)
    return float(np.mean(whole)) < 0.9

  @functools.cached_property
  def time(self) -> str | None:
    """How the values are read as times of our days; None if they cannot be."""
    if pa.types.is_boolean(self.column.type) or self.is_fractional_text:
      return None
    reader = times.TimeReader(None, None)
    there = self.column.filter(self.ids.is_valid())
    if not len(there):
      there = self.column.drop_null()
    reader.add(there.slice(0, _SAMPLE_TIMES))
    found = reader.finish()
    if not len(found.values) or np.mean(found.readable) < 0.9:
      return None
    if not found.by_time:
      return None
    middle = np.median(found.values[found.readable])
    years = 1970 + middle / (365.25 * 24 * 3600 * 1000)
    return found.how if 1990 <= years <= time.gmtime().tm_year + 1 else None

  @property
  def is_fractional_text(self) -> bool:
    """Whether values are small numbers with decimals, such as prices."""
    return self.is_fractional and float(np.max(np.abs(self.numbers))) < 1e8

  @functools.cached_property
  def words(self) -> float:
    """Mean number of words per value."""
    sample = self.texts.slice(0, 1000).to_pylist()
    return float(np.mean([len(text.split()) for text in sample] or [0]))

  @functools.cached_property
  def is_lists(self) -> bool:
    """Whether values are several ids in a text, parted by blanks or commas."""
    sample = self.texts.slice(0, 200).to_pylist()
    parts = [re.split(r"[\s,|;]+", text.strip("[] ")) for text in sample]
    many = [part for part in parts if len(part) > _MANY_WORDS]
    if len(many) < 0.3 * max(len(parts), 1):
      return False
    digits = [
      bool(re.search(r"\d", word)) and not re.fullmatch(r"\d{1,2}", word)
      for part in many
      for word in part
      if word
    ]
    return float(np.mean(digits or [0])) > 0.9

  @functools.cached_property
  def is_link(self) -> bool:
    """Whether values are addresses of pages."""
    sample = self.texts.slice(0, 200).to_pylist()
    return bool(sample) and all(_URL.match(text) for text in sample)

  @functools.cached_property
  def is_text(self) -> bool:
    """Whether values are words rather than numbers, links or flags."""
    if not len(self.texts) or self.is_numeric or self.is_link or self.is_lists:
      return False
    sample = self.texts.slice(0, 200).to_pylist()
    letters = [
      any(map(str.isalpha, text)) and not _CODE.fullmatch(text)
      for text in sample
    ]
    flags = {text.lower() for text in sample} <= {"true", "false", "y", "n"}
    code = sum(text.startswith(("[", "{")) for text in sample)
    return (
      float(np.mean(letters)) > 0.8
      and not flags
      and code < 0.5 * len(sample)
      and self.time is None
    )

  @functools.cached_property
  def is_list_of_texts(self) -> bool:
    """Whether values are lists of words."""
    kind = self.column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
      return False
    parts = self.column.slice(0, 200).flatten()
    if not (
      pa.types.is_string(parts.type) or pa.types.is_large_string(parts.type)
    ):
      return False
    return Profile(self.name, parts, values.ids(parts)).is_text

  def kinds(self) -> list[tuple[str, int]]:
    """The kinds of event that the column seems to hold, with counts."""
    if not 2 <= len(self.distinct) <= _MAX_KINDS:
      return []
    if self.words > _MOST_WORDS:
      return []
    named = column_names.rank("kind", self.name) is not None
    known = [
      value
      for value, _ in self.distinct
      if is_view(value) or is_purchase(value) or is_undone(value)
    ]
    rank = column_names.rank("kind", self.name)
    surely = rank is not None and rank < _SURE and not self.is_numeric
    enough = surely or (
      known and (named or len(known) > 0.5 * len(self.distinct) > 0.5)
    )
    return self.distinct if enough else []

  def is_codes(self) -> bool:
    """Whether it is named like kinds of event, and holds a few numbers."""
    named = column_names.rank("kind", self.name)
    return (
      named is not None
      and self.is_numeric
      and 2 <= len(self.distinct) <= _MAX_KINDS
    )

  def is_rating(self) -> bool:
    """Whether it holds few different grades."""
    return (
      column_names.rank("rating", self.name) is not None
      and self.is_numeric
      and 2 <= len(self.distinct) <= _MAX_RATINGS
    )

  def is_grades(self) -> bool:
    """Whether values without a name are grades: half or whole, few, not low."""
    if not self.is_numeric or not 3 <= len(self.distinct) <= _MAX_RATINGS:
      return False
    highest = float(np.max(self.numbers))
    return (
      float(np.min(self.numbers)) > 0
      and (3 <= highest <= 10 or highest in (20, 100))
      and float(np.median(self.numbers)) >= 0.5 * highest
      and bool(np.all(2 * self.numbers == np.round(2 * self.numbers)))
    )

  def is_quantity(self) -> bool:
    """Whether it is named like a quantity and holds whole numbers."""
    return (
      column_names.rank("quantity", self.name) is not None
      and self.is_numeric
      and bool(np.all(self.numbers == np.round(self.numbers)))
    )


def may_be_time(profile: Profile) -> bool:
  """Whether values are times, and the name says nothing else.

  Ids may be such numbers by chance.
  """
  if profile.time is None or not profile.is_numeric:
    return profile.time is not None
  if column_names.rank("time", profile.name) is not None:
    return True
  return not column_names.means_anything(profile.name)


def is_undone(value: str) -> bool:
  """Whether a kind of event takes a purchase back, or never was one."""
  return any(word in value.lower() for word in _UNDONE)


def is_purchase(value: str) -> bool:
  """Whether a kind of event is a purchase."""
  words = column_names.as_words(value)
  return (
    not is_undone(value)
    and any(
      word in words.split("_") or (len(word) > 4 and word in words)
      for word in PURCHASES
    )
    and not words.startswith(("add", "begin", "view"))
  )


def is_view(value: str) -> bool:
  """Whether a kind of event comes before a purchase, such as a view."""
  words = column_names.as_words(value)
  first = words.partition("_")[0]
  return bool({words, words.rstrip("s"), first, first.rstrip("s")} & _VIEWS)


def profiles(
  table: pa.Table, missing: tuple[str, ...] = ()
) -> dict[str, Profile]:
  """A profile of each column of a sample, by name."""
  found = {}
  for name in table.column_names:
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
      column = pa.concat_arrays(column.chunks) if column.chunks else None
    if column is not None:
      found[name] = Profile(name, column, _texts(column, missing))
  return found


def _texts(column: pa.Array, missing: tuple[str, ...]) -> pa.Array:
  """Values as text: as ids, but amounts, too."""
  ids = values.ids(column, missing)
  if not pa.types.is_floating(column.type):
    return ids
  amounts = pc.and_(pc.is_finite(column), ids.is_null())
  return pc.if_else(
    pc.fill_null(amounts, False), column.cast(pa.large_string()), ids
  )


def ranked(
  role: str, found: Mapping[str, Profile], skip: Iterable[str] = ()
) -> list[str]:
  """Names of the columns that may have a role, the likeliest first.

  Args:
    role: One of `column_names.ROLES`.
    found: Profiles by column.
    skip: Columns that have another role.
  """
  pairs = []
  for position, (name, profile) in enumerate(found.items()):
    rank = column_names.rank(role, name)
    if rank is None or name in {*skip} or not _fits(role, profile, rank):
      continue
    missing = profile.missing
    if profile.absent is not None:
      missing = max(missing, profile.distinct[0][1] / len(profile.ids))
    mostly_missing = missing > 0.4
    pairs.append((mostly_missing, rank, position, name))
  return [name for *_, name in sorted(pairs)]


def describes(item: Profile, other: Profile) -> float:
  """Share of the rows in which a column says the same of an item as before.

  Args:
    item: The items' ids.
    other: Another column of the same rows.

  Returns:
    A share; 1 if no item is there twice.
  """
  both = pc.and_(item.ids.is_valid(), other.ids.is_valid())
  ids = item.ids.filter(both).dictionary_encode().indices.to_numpy()
  said = other.ids.filter(both).dictionary_encode().indices.to_numpy()
  if not len(ids):
    return 1.0
  _, first, inverse, counts = np.unique(
    ids, return_index=True, return_inverse=True, return_counts=True
  )
  again = np.ones(len(ids), bool)
  again[first] = False
  again &= counts[inverse] > 1
  same = said == said[first[inverse]]
  return float(np.mean(same[again])) if again.any() else 1.0


def is_description(item: Profile, other: Profile) -> bool:
  """Whether a column says the same of an item in most of its rows."""
  return describes(item, other) >= _CONSISTENT


def written_once(profile: Profile, found: Mapping[str, Profile]) -> str | None:
  """The column that shows that missing values are those of the row above.

  Such as the number of an order, which is the same in all rows of it, while the
  order's time is written in its first row only.

  Args:
    profile: A column with missing values.
    found: Profiles by column.

  Returns:
    Name of a column without missing values that stays the same where this one
    is missing, and changes where it is not; None if there is none.
  """
  absent = profile.ids.is_null().to_numpy(zero_copy_only=False)
  if not absent.any() or absent.all() or absent[0]:
    return None
  for name, other in found.items():
    if other.ids.null_count or other.name == profile.name:
      continue
    codes = other.ids.dictionary_encode().indices.to_numpy()
    stays = np.concatenate([[False], codes[1:] == codes[:-1]])
    if stays[absent].all() and np.mean(stays[~absent]) < 0.1:
      return name
  return None


def _fits(role: str, profile: Profile, rank: int) -> bool:
  """Whether the values do not speak against the role."""
  if pa.types.is_nested(profile.column.type):
    return role in ("title", "category", "brand") and profile.is_list_of_texts
  if not len(profile.texts):
    return False
  if role == "time":
    return profile.time is not None
  if role == "kind":
    return bool(profile.kinds())
  if role == "rating":
    return profile.is_rating()
  if role in ("user", "item"):
    # Google writes ids as 1026454.4271112504.
    texts = arrow_columns.is_text(profile.column.type)
    amounts = profile.is_fractional and not (
      texts and rank < column_names.UNSURE
    )
    return not amounts and len(profile.distinct) > 1
  if role in ("quantity", "position", "price"):
    return profile.is_numeric
  if role in ("title", "brand", "category"):
    return profile.is_text
  return True
