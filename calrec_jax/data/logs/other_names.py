"""What parameters of other programs, which `LogFiles` has not, are called here.

`config` answers a binding of one of these names with the binding that does it.
"""

from __future__ import annotations

from collections.abc import Mapping

_BY_BINDING = {
  'LogFiles.where = "rating >= 4"': (
    *("min_rating", "rating_threshold", "threshold", "positive_threshold"),
  ),
  'LogFiles.where = "rating <= 5"': ("max_rating",),
  'LogFiles.where = "quantity > 0"': ("min_quantity",),
  'LogFiles.where = "price > 0"': ("min_price",),
  "LogFiles.where = \"timestamp >= '2024-01-01'\"": (
    *("start_date", "start_time", "start", "since", "min_date", "date_from"),
  ),
  "LogFiles.where = \"timestamp < '2025-01-01'\"": (
    *("end_date", "end_time", "end", "until", "max_date", "date_to"),
  ),
  "LogFiles.where = \"country == 'DE' and quantity > 0\"": (
    *("filter", "filters", "query", "condition"),
  ),
  "LogFiles.where = \"event == 'purchase'\" to read one kind of event, or "
  'LogFiles.event_column = "event" to read all': (
    *("event_type", "event_types", "event", "events", "behavior", "action"),
  ),
  'LogFiles.delimiter = ";"': ("sep", "separator", "field_separator", "delim"),
  "LogFiles.columns, the names of all columns of a file without a header; a "
  "header is read by itself, and LogFiles.user_column, item_column and "
  "time_column say which columns are used": (
    *("header", "has_header", "names", "column_names", "usecols"),
  ),
  "nothing for the types of columns, which are detected; ids are texts. "
  "LogFiles.time_unit, time_format and decimal say what texts do not": (
    *("dtype", "dtypes", "schema", "converters"),
  ),
  'LogFiles.time_format = "%d.%m.%Y %H:%M", or nothing to detect it': (
    *("parse_dates", "date_format", "datetime_format", "date_parser"),
  ),
  'LogFiles.quote = "\'"': ("quotechar", "quote_char"),
  'LogFiles.escape = "\\\\"': ("escapechar", "escape_char"),
  'LogFiles.missing = ("", "N/A", "unknown")': (
    *("na_values", "null_values", "nan_values"),
  ),
  'LogFiles.decimal = ","': ("thousands", "decimal_separator"),
  'LogFiles.interactions = "purchases.csv"': (
    *("path", "paths", "file", "files", "filename", "data"),
  ),
  'LogFiles.folder = "logs"': ("root", "data_dir", "data_path", "base_dir"),
  'LogFiles.user_column = "user_id"': ("user", "user_id", "user_col", "uid"),
  'LogFiles.item_column = "item_id"': ("item", "item_id", "item_col", "iid"),
  'LogFiles.time_column = "timestamp"': (
    *("timestamp", "timestamp_col", "time", "time_col", "date_column"),
  ),
  "Domain.min_count = 5, events per user and per item": (
    *("min_interactions", "min_events", "min_count", "k_core"),
  ),
  'Domain.duplicates = "drop" for rows that are there twice, and '
  'Domain.dedup = "consecutive_id" for an item bought twice in a row': (
    *("duplicates", "drop_duplicates", "dedup"),
  ),
  'Domain.split = "global_temporal", with Domain.validation_start and '
  "Domain.test_start": ("split", "split_date", "validation_start"),
  "Domain.max_history = 50": ("max_history", "max_len", "max_seq_length"),
  'Domain.fields = (("Title", "title"),)': (
    *("fields", "text_fields", "text_column", "item_text"),
  ),
}
BINDINGS: Mapping[str, str] = {
  name: binding for binding, names in _BY_BINDING.items() for name in names
}
