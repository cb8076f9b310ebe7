"""How the files of a log are written, where they do not say it themselves."""

from __future__ import annotations

import dataclasses

FORMATS = ("csv", "json", "parquet", "sequences", "xlsx", "orc", "arrow")
QUOTINGS = ("auto", "quoted", "none")
MISSING = ("", "NULL", "\\N", "NaN", "nan", "None", "<NA>")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadOptions:
  """Options that apply to each file of a log; None means detect.

  Attributes:
    format: One of `FORMATS`; None tells it by the suffix and the first bytes.
    columns: Names of the columns of files without a header; empty reads the
      first row as the header.
    columns_binding: Gin name of `columns`, for messages.
    delimiter: Text between two fields of CSV files, of any length.
    quoting: "auto", "quoted" if quotes enclose fields, "none" if they are text.
    quote: Character that encloses fields.
    escape: Character before a quote that is text, such as Spark's backslash;
      "" if quotes are doubled instead.
    encoding: Encoding of text files.
    missing: Words that mean a missing value.
    as_json: Names of columns of JSON files whose values stay apart, each as its
      JSON; otherwise those of one column get one type.
  """

  format: str | None = None
  columns: tuple[str, ...] = ()
  columns_binding: str = "LogFiles.columns"
  delimiter: str | None = None
  quoting: str = "auto"
  quote: str = '"'
  escape: str | None = None
  encoding: str | None = None
  missing: tuple[str, ...] = MISSING
  as_json: tuple[str, ...] = ()
