"""Any log of purchases: which files, which columns, which rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import gin
import pyarrow as pa

from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs import log_settings, other_names
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.columns import id_rules, time_layouts
from calrec_jax.data.logs.columns import text as text_lib
from calrec_jax.data.logs.files import ahead, log_paths, read_options
from calrec_jax.data.logs.guessing import log_checks, profile
from calrec_jax.data.logs.reading import tables
from calrec_jax.data.logs.rows import (
  event_columns,
  fill_down,
  item_rows,
  order_rows,
  where,
)
from calrec_jax.errors import InputError, check, nearest

_REQUIRED: Any = gin.REQUIRED  # Gin rejects it when used.
_SAMPLE_ROWS = 10_000
_PATHS = ("interactions", "items", "orders", "folder")
# The values that settings had before they were detected. Fingerprints write
# them for None, so that the caches of earlier releases are still found.
_EARLIER = {"time_unit": "s", "encoding": "utf-8"}
_IN_EARLIER_FINGERPRINTS = (
  *("user_column", "item_column", "item_id_column", "time_column", "time_unit"),
  *("text_columns", "delimiter", "encoding"),
)


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class LogFiles:
  """A log of purchases in files, and the names of their columns.

  A path is a file, a list of files, a pattern such as `events/*.parquet`, a
  folder, also with partitions such as `date=2024-01-31`, a member of an archive
  (`log.zip/ratings.csv`), or a URL such as `s3://bucket/log.parquet`. CSV,
  JSON, Parquet and sequences are read, also compressed; None detects what
  files do not say, and the card states what was chosen.

  Attributes:
    interactions: Files of the purchases, one per row.
    items: Files of the items, one per row; None if the rows of the purchases
      describe their items.
    orders: Files of the orders, one per row, for purchases that name their
      order instead of their user and time; None if they do not.
    folder: Folder of relative paths.
    user_column: Column of the user's id.
    item_column: Column of the item's id in the purchases; "items[]" where each
      row lists a user's items, also in a text such as "1 2 3" or "[1, 2]".
    item_id_column: Column of the item's id in `items`; None is `item_column`.
    order_id_column: Column of the order's id, in `orders` and the purchases.
    time_column: Column of the time; None takes the order of the rows.
    time_unit: Unit of the time: "s", "ms", "us" or "ns" since 1970, "iso" for
      ISO 8601 (UTC unless it has a zone), "date" for 20240131, "order" for
      positions; None detects it.
    time_format: Pattern of the time, as of Python's strptime: "%d.%m.%Y %H:%M".
    order_column: Column of numbers that order purchases of the same time, such
      as the lines of a basket.
    event_column: Column of the kind of event, such as view or purchase, where
      all kinds are to be in the history.
    where: Condition on rows that count: `rating >= 4 and quantity > 0`, see
      `where`.
    target_where: Condition on events that are to be predicted, likewise; the
      others are only in the history.
    text_columns: Source's column by field column, where they differ:
      `{"title": "product_name"}`.
    columns: Names of the columns of purchases in files without a header.
    item_columns: Names of the columns of `items`, likewise.
    order_columns: Names of the columns of `orders`, likewise.
    fill_down: Columns whose empty values are those of the row above, as in
      exports that write an order's user and time once.
    format: "csv", "json", "parquet", "sequences" (a user and items per line) or
      "xlsx".
    delimiter: Text between the fields of CSV files.
    quoting: "auto", "quoted" if quotes enclose fields, "none" if they are text.
    quote: Character that encloses fields.
    escape: Character before a quote that is text, such as a backslash; "" if
      such quotes are doubled.
    encoding: Encoding of text files.
    decimal: Decimal sign of prices and other numbers, "." or ",".
    missing: Words that mean a missing value.
    id_rules: Rules that spell ids alike in all files: some of "accents",
      "blanks", "case", "decimals" (15.0 is 15) and "leading_zeros".
  """

  default_fields: ClassVar[tuple[text_lib.Field, ...]] = text_lib.DEFAULT_FIELDS
  elsewhere: ClassVar[Mapping[str, str]] = other_names.BINDINGS

  interactions: str | Sequence[str] = _REQUIRED
  items: str | Sequence[str] | None = None
  orders: str | Sequence[str] | None = None
  folder: str | None = None
  user_column: str = "user_id"
  item_column: str = "item_id"
  item_id_column: str | None = None
  order_id_column: str = "order_id"
  time_column: str | None = "timestamp"
  time_unit: str | None = None
  time_format: str | None = None
  order_column: str | None = None
  event_column: str | None = None
  where: str | None = None
  target_where: str | None = None
  text_columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
  columns: Sequence[str] = ()
  item_columns: Sequence[str] = ()
  order_columns: Sequence[str] = ()
  fill_down: Sequence[str] = ()
  format: str | None = None
  delimiter: str | None = None
  quoting: str = "auto"
  quote: str = '"'
  escape: str | None = None
  encoding: str | None = None
  decimal: str | None = None
  missing: Sequence[str] = read_options.MISSING
  id_rules: Sequence[str] = ()

  def __post_init__(self) -> None:
    """Checks the settings."""
    check(self, **log_settings.RULES)
    for name in log_settings.LISTS:  # Lists and tuples mean the same.
      object.__setattr__(self, name, tuple(getattr(self, name)))
    id_rules.check_rules(self.id_rules)
    if self.time_format is not None:
      time_layouts.check_pattern(self.time_format)
    for name in ("where", "target_where"):
      if getattr(self, name) is not None:
        where.parse(getattr(self, name), f"LogFiles.{name}")

  @property
  def _times(self) -> str | None:
    """The column of times; sequences have none unless another one is named."""
    default = type(self).time_column
    if self.format == "sequences" and self.time_column == default:
      return None
    return self.time_column

  def paths(self, name: str = "interactions") -> list[log_paths.LogPath]:
    """The files that a setting names: interactions, items or orders.

    They are those of the last `fingerprint`, so that a file that appears later
    in a folder is not read into what is named by the files of before.
    """
    found = self.__dict__.get("_found")
    return self._find(name) if found is None else list(found[name])

  def _find(self, name: str) -> list[log_paths.LogPath]:
    value = getattr(self, name)
    return [] if value is None else log_paths.expand(value, self.folder)

  def files(self) -> list[log_paths.LogPath]:
    """The files that are read."""
    return [
      path
      for name in ("interactions", "items", "orders")
      for path in self.paths(name)
    ]

  def inputs(self) -> list[dict[str, Any]]:
    """The files as JSON, see `Source.inputs`."""
    return log_paths.inputs(self.files())

  def fingerprint(self) -> dict[str, Any]:
    """Everything the events depend on: the settings, and the files' hashes."""
    settings = {}
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.name in _PATHS:
        continue
      if field.name in _EARLIER:
        earlier = _EARLIER[field.name]
        settings[field.name] = value or earlier
        if value == earlier:  # Bound, which differs from detecting it.
          settings[f"{field.name}_bound"] = True
      elif field.name in _IN_EARLIER_FINGERPRINTS or value != field.default:
        settings[field.name] = value
    settings["text_columns"] = dict(self.text_columns)
    found = {name: self._find(name) for name in _PATHS if name != "folder"}
    object.__setattr__(self, "_found", found)
    return settings | {"inputs": [path.sha256() for path in self.files()]}

  def read(
    self, problems: problems_lib.Problems, columns: Sequence[str]
  ) -> tuple[events_lib.Events, events_lib.Items]:
    """Reads the log.

    Args:
      problems: Counter of the rows that cannot be used.
      columns: Names of the requested item columns, as in fields.

    Returns:
      Events in the order of the file, and the items.
    """
    for column in self.text_columns:
      if column not in columns:
        raise InputError(
          f"LogFiles.text_columns names {column!r}, which no field of "
          f"Domain.fields reads; they read {', '.join(map(repr, columns))}."
          + nearest(column, columns)
        )
    names = {
      column: self.text_columns.get(column, column) for column in columns
    }
    described, rows, known = None, None, None
    if self.items is None:
      rows = self._item_rows(self.item_column, names, problems)
    else:
      described = self._read_items(names, problems)
      self._require_rows("items", described.num_rows)
      known = pa.array(described.item_ids, pa.large_string())
    events = event_columns.EventColumns(self._columns(), problems, known)
    blocks = self._blocks(problems, list(names.values()))

    def read(block: tables.Block) -> tuple[tables.Block, Any, Any]:
      found = events.read(block.rows)
      if rows is None:
        return block, found, None
      return block, found, rows.read(block.rows, block.available, found.items)

    # Threads read some blocks ahead.
    for block, found, of_items in ahead.in_order(read, blocks):
      events.add(block.file, block.rows, found)
      if rows is not None:
        rows.add(block.file, block.rows, block.available, of_items)
    found = events.finish()
    self._require_rows("interactions", found.num_rows)
    # Without a catalogue both number items by their first appearance.
    items = described if rows is None else rows.finish()
    assert items is not None
    self._require_texts(items)
    items = dataclasses.replace(
      items, decimal=self.decimal, missing=tuple(self.missing)
    )
    self._review(found, problems)
    return found, items

  def _require_rows(self, name: str, count: int) -> None:
    if not count:
      paths = self.paths(name)
      others = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
      raise InputError(
        f"{paths[0].path}{others} (LogFiles.{name}): no row below the names of "
        "the columns."
      )

  def _review(
    self, events: events_lib.Events, problems: problems_lib.Problems
  ) -> None:
    """Adds notes on what a sample of the purchases shows."""
    if self._times is None:
      log_checks.note_order_of_rows(events, problems)
    path = self.paths()[0]
    if self.format == "sequences":
      return
    sample = tables.sample(path, self.options(), _SAMPLE_ROWS)
    log_checks.review(
      profile.profiles(sample.table, tuple(self.missing)),
      self._bindings(),
      {*self.text_columns.values(), self.order_id_column, *self.fill_down},
      self.time_column,
      problems,
      path.path,
    )

  def options(self, columns: str = "columns") -> read_options.ReadOptions:
    """The options of one kind of file.

    Args:
      columns: Setting that names its columns, where it has no header.
    """
    table = columns != "columns" and self.format == "sequences"
    return read_options.ReadOptions(
      columns=tuple(getattr(self, columns)),
      columns_binding=f"LogFiles.{columns}",
      # Items and orders are tables.
      format=None if table else self.format,
      delimiter=self.delimiter,
      quoting=self.quoting,
      quote=self.quote,
      escape=self.escape,
      encoding=self.encoding,
      missing=tuple(self.missing),
    )

  def _columns(self) -> event_columns.Columns:
    conditions = {
      name: where.parse(text, f"LogFiles.{binding}") if text else None
      for name, binding, text in (
        ("where", "where", self.where),
        ("targets", "target_where", self.target_where),
      )
    }
    return event_columns.Columns(
      user=self.user_column,
      item=self.item_column,
      time=self._times,
      time_unit=self.time_unit,
      time_format=self.time_format,
      order=self.order_column,
      kind=self.event_column,
      decimal=self.decimal,
      missing=tuple(self.missing),
      id_rules=tuple(self.id_rules),
      **conditions,
    )

  def _bindings(self) -> dict[str, str]:
    """The gin name by which each column of events is chosen."""
    bindings = {}
    for condition in self._columns().conditions():
      bindings |= dict.fromkeys(condition.columns(), condition.binding)
    if self._times is not None:
      bindings[self._times] = "LogFiles.time_column"
    for name in ("order", "event", "item", "user"):
      if column := getattr(self, f"{name}_column"):
        bindings[column] = f"LogFiles.{name}_column"
    return bindings

  def _blocks(
    self, problems: problems_lib.Problems, texts: list[str]
  ) -> Iterator[tables.Block]:
    """The blocks of the purchases, with what their orders say of them."""
    required = self._bindings() | dict.fromkeys(
      self.fill_down, "LogFiles.fill_down"
    )
    optional_ = texts if self.items is None else []
    read = functools.partial(
      tables.blocks,
      options=self.options(),
      problems=problems,
    )
    if self.orders is None:
      blocks = read(self.paths(), required, optional_)
    else:
      orders = order_rows.Orders(
        tables.blocks(
          self.paths("orders"),
          {self.order_id_column: "LogFiles.order_id_column"},
          [*required, *optional_],
          options=self.options("order_columns"),
          problems=problems,
        ),
        self.order_id_column,
        tuple(self.missing),
        problems,
        tuple(self.id_rules),
      )
      here = {
        name: binding
        for name, binding in required.items()
        if name not in orders.columns
      }
      here[self.order_id_column] = "LogFiles.order_id_column"
      wanted = [*required, *optional_]  # Purchases may have them, too.
      blocks = orders.join(read(self.paths(), here, wanted))
    if self.fill_down:
      return fill_down.fill_down(blocks, self.fill_down, self.missing)
    return blocks

  def _item_rows(
    self,
    id_column: str,
    names: Mapping[str, str],
    problems: problems_lib.Problems,
  ) -> item_rows.ItemRows:
    return item_rows.ItemRows(
      id_column,
      names,
      problems,
      own_files=self.items is not None,
      missing=tuple(self.missing),
      id_rules=tuple(self.id_rules),
    )

  def _read_items(
    self, names: Mapping[str, str], problems: problems_lib.Problems
  ) -> events_lib.Items:
    id_column = self.item_id_column or self.item_column
    rows = self._item_rows(id_column, names, problems)
    for block in tables.blocks(
      self.paths("items"),
      {id_column: "LogFiles.item_id_column"},
      list(names.values()),
      options=self.options("item_columns"),
      problems=problems,
    ):
      rows.add(block.file, block.rows, block.available)
    return rows.finish()

  def _require_texts(self, items: events_lib.Items) -> None:
    for column, name in self.text_columns.items():
      if column not in items.columns:
        raise InputError(
          f"LogFiles.text_columns takes {column!r} from {name!r}, which "
          f"{items.file} lacks. It has {tables.listed(items.available)}."
          + nearest(name, items.available)
        )
