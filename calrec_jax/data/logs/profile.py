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

from calrec_jax.data.logs import numbers, times, values

ROLES = (
  *("user", "item", "time", "title", "category", "brand", "price"),
  *("kind", "rating", "quantity", "order", "position"),
)
# Names by role, the surest first, as words joined by underscores.
_NAMES: Mapping[str, tuple[str, ...]] = {
  "user": (
    *("user_id", "userid", "user", "uid", "customer_id", "customerid"),
    *("customer", "client_id", "client", "visitor_id", "visitorid", "visitor"),
    *("buyer_id", "buyer", "member_id", "member", "reviewer_id", "reviewerid"),
    *("reviewer", "person_id", "household_id", "household_key", "account_id"),
    *("shopper_id", "kunde", "kunden_id", "kundennr", "kundennummer"),
    *("cust_id", "username", "user_name", "email", "customer_email", "author"),
    *("account", "device_id", "session_id", "sessionid", "session", "cliente"),
  ),
  "item": (
    *("item_id", "itemid", "item", "iid", "product_id", "productid", "product"),
    *("sku", "asin", "parent_asin", "article_id", "article", "artikel"),
    *("artikelnr", "artikelnummer", "stock_code", "stockcode", "goods_id"),
    *("lineitem_sku", "movie_id", "movieid", "movie", "book_id", "bookid"),
    *("isbn", "track_id", "song_id", "artist_id", "business_id", "gmap_id"),
    *("app_id", "game_id", "location_id", "venue_id", "poi_id", "recipe_id"),
    *("news_id", "video_id", "content_id", "variant_id", "upc", "ean", "gtin"),
    *("material", "traid", "artid", "article_number", "product_code", "id"),
  ),
  "time": (
    *("timestamp", "time", "datetime", "date_time", "event_time", "unix_time"),
    *("unix_review_time", "created_at", "created", "order_date", "orderdate"),
    *("purchase_date", "invoice_date", "invoicedate", "transaction_date"),
    *("bought_at", "t_dat", "date", "datum", "day", "ts", "review_time"),
    *("date_added", "ordered_at", "paid_at", "event_date", "event_timestamp"),
    *("order_time", "purchased_at", "check_in_time", "week"),
  ),
  "title": (
    *("title", "name", "product_name", "productname", "item_name", "prod_name"),
    *("product_title", "movie_title", "book_title", "lineitem_name"),
    *("bezeichnung", "artikelbezeichnung", "description", "desc", "app_name"),
    *("track_name", "artist_name", "traname", "artname", "song", "headline"),
    *("display_name", "label", "product_description", "nombre", "titel"),
  ),
  "category": (
    *("category", "categories", "main_category", "genre", "genres", "class"),
    *("category_name", "department", "product_type", "product_type_name"),
    *("type_name", "kategorie", "warengruppe", "category_code", "aisle"),
    *("product_category", "category_id", "shelf", "tags"),
  ),
  "brand": (
    *("brand", "manufacturer", "maker", "vendor", "publisher", "developer"),
    *("store", "marke", "hersteller", "artist", "author_name", "supplier"),
  ),
  "price": (
    *("price", "unit_price", "unitprice", "preis", "lineitem_price", "cost"),
    *("sales_price", "list_price", "prix", "precio", "einzelpreis"),
  ),
  "kind": (
    *("event", "event_type", "eventtype", "event_name", "action", "behavior"),
    *("action_type", "behavior_type", "behaviour", "interaction", "activity"),
    *("interaction_type", "type", "kind", "status", "feedback"),
  ),
  "rating": ("rating", "ratings", "stars", "score", "overall", "grade", "vote"),
  "quantity": (
    *("quantity", "qty", "menge", "anzahl", "units", "amount", "count"),
    *("lineitem_quantity", "quantite", "cantidad", "sales_qty"),
  ),
  "order": (
    *("order_id", "orderid", "invoice", "invoice_no", "invoiceno", "basket_id"),
    *("transaction_id", "transactionid", "order_no", "receipt", "bestellnr"),
  ),
  "position": (
    *("add_to_cart_order", "position", "line", "line_no", "line_number"),
    *("sequence", "seq", "order_line", "item_index", "rank"),
  ),
}
PURCHASES = (
  *("purchase", "purchased", "buy", "bought", "transaction", "order", "pay"),
  *("paid", "sale", "checkout", "conversion", "kauf", "completed"),
)
_KINDS = {
  *PURCHASES,
  *("view", "click", "cart", "add", "addtocart", "add_to_cart", "addtobasket"),
  *("remove_from_cart", "pv", "fav", "favorite", "wish", "wishlist", "like"),
  *("impression", "detail", "play", "skip", "search", "refund", "return"),
  *("returned", "cancelled", "canceled", "refunded", "detail_view", "read"),
}
_MAX_KINDS = 12
_MAX_RATINGS = 21
_SAMPLE_TIMES = 2000


@dataclasses.dataclass(frozen=True, eq=False)
class Profile:
  """A column of a sample.

  Attributes:
    name: Name of the column.
    column: Its values as they are.
    texts: The values that are there, as text.
  """

  name: str
  column: pa.Array
  texts: pa.Array

  @functools.cached_property
  def distinct(self) -> list[tuple[str, int]]:
    """The values with their counts, the most frequent first."""
    counts = pc.value_counts(self.texts).to_pylist()
    pairs = [(str(each["values"]), each["counts"]) for each in counts]
    return sorted(pairs, key=lambda pair: -pair[1])

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

  @functools.cached_property
  def time(self) -> str | None:
    """How the values are read as times of our days; None if they cannot be."""
    reader = times.TimeReader(None, None)
    reader.add(self.column.drop_null().slice(0, _SAMPLE_TIMES))
    found = reader.finish()
    if not len(found.values) or np.mean(found.readable) < 0.9:
      return None
    middle = np.median(found.values[found.readable])
    years = 1970 + middle / (365.25 * 24 * 3600 * 1000)
    return found.how if 1990 <= years <= time.gmtime().tm_year + 1 else None

  @functools.cached_property
  def words(self) -> float:
    """Mean number of words per value."""
    sample = self.texts.slice(0, 1000).to_pylist()
    return float(np.mean([len(text.split()) for text in sample] or [0]))

  def kinds(self) -> list[tuple[str, int]]:
    """The kinds of event that the column seems to hold, with counts."""
    if not 2 <= len(self.distinct) <= _MAX_KINDS:
      return []
    names = {_words(value) for value, _ in self.distinct}
    named = _rank("kind", self.name) is not None
    return self.distinct if names & _KINDS and (named or len(names) > 1) else []

  def is_rating(self) -> bool:
    """Whether it holds few different grades."""
    return (
      _rank("rating", self.name) is not None
      and self.is_numeric
      and 2 <= len(self.distinct) <= _MAX_RATINGS
    )

  def is_quantity(self) -> bool:
    """Whether it is named like a quantity and holds whole numbers."""
    return (
      _rank("quantity", self.name) is not None
      and self.is_numeric
      and bool(np.all(self.numbers == np.round(self.numbers)))
    )


def profiles(
  table: pa.Table, missing: tuple[str, ...] = ()
) -> dict[str, Profile]:
  """A profile of each column of a sample, by name."""
  found = {}
  for name in table.column_names:
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
      column = pa.concat_arrays(column.chunks) if column.chunks else None
    if column is None:
      continue
    texts = values.ids(column, missing).drop_null()
    found[name] = Profile(name, column, texts)
  return found


def roles(
  found: Mapping[str, Profile], skip: Iterable[str] = ()
) -> dict[str, str]:
  """The likely column of each role; roles without one are left out.

  Args:
    found: Profiles by column.
    skip: Columns that have a role already.
  """
  free = [name for name in found if name not in set(skip)]
  chosen: dict[str, str] = {}
  for role in ROLES:
    ranked = [
      (rank, position, name)
      for position, name in enumerate(free)
      if (rank := _rank(role, name)) is not None and _fits(role, found[name])
    ]
    if ranked:
      chosen[role] = min(ranked)[2]
      free.remove(chosen[role])
  return chosen


def roles_by_values(found: Mapping[str, Profile]) -> dict[str, str]:
  """Roles of columns without names: users, items, ratings, times in order."""
  chosen: dict[str, str] = {}
  names = list(found)
  for name in names:
    if found[name].time is not None:
      chosen.setdefault("time", name)
  rest = [name for name in names if name not in chosen.values()]
  for role, name in zip(("user", "item"), rest, strict=False):
    chosen[role] = name
  for name in rest[2:]:
    profile = found[name]
    if profile.is_numeric and 2 <= len(profile.distinct) <= _MAX_RATINGS:
      chosen.setdefault("rating", name)
    elif profile.words > 1.2 and not profile.is_numeric:
      chosen.setdefault("title", name)
  return chosen


def _fits(role: str, profile: Profile) -> bool:
  """Whether the values do not speak against the role."""
  if role == "time":
    return profile.time is not None
  if role == "kind":
    return bool(profile.kinds())
  if role == "rating":
    return profile.is_rating()
  if role in ("quantity", "position"):
    return profile.is_numeric
  if role in ("title", "brand"):
    return not profile.is_numeric or not len(profile.texts)
  return True


def _rank(role: str, name: str) -> int | None:
  """How surely a name means a role, from 0; None if it does not."""
  words, names = _words(name), _NAMES[role]
  if words in names:
    return names.index(words)
  last = words.rpartition("_")[2]
  parts = {*words.split("_")}
  for index, known in enumerate(names):
    if known != "id" and (known == last or {*known.split("_")} <= parts):
      return 100 + index
  return None


def _words(name: str) -> str:
  """`orderDate`, `Order Date` and `order-date` as `order_date`."""
  name = name.rpartition(".")[2].partition(":")[0]
  name = re.sub("([a-z0-9])([A-Z])", r"\1_\2", name)
  return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")
