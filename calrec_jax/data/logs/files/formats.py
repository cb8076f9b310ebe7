"""The format of a file: by its first bytes, where they tell it.

A suffix only decides between formats that look alike, and names files that are
refused; so the same bytes are read the same way under any name.
"""

from __future__ import annotations

import json
import re

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.files import containers
from calrec_jax.errors import InputError

SUFFIXES = (
  dict.fromkeys((".csv", ".tsv", ".txt", ".dat", ".tab", ".psv"), "csv")
  | dict.fromkeys((".inter", ".item", ".user"), "csv")
  | dict.fromkeys((".jsonl", ".json", ".ndjson"), "json")
  | dict.fromkeys((".parquet", ".pq"), "parquet")
  | dict.fromkeys((".feather", ".arrow", ".arrows", ".ipc"), "arrow")
  | {".orc": "orc", ".xlsx": "xlsx", ".xlsm": "xlsx"}
)
TEXT = frozenset(("csv", "json", "sequences"))
# Formats whose reader goes back and forth in the file.
SEEKING = frozenset(("parquet", "orc", "arrow", "xlsx"))

_PANDAS = "Read it with pandas and write Parquet (to_parquet)"
_PICKLE = (
  "A pickle can run any code. Where you trust it, "
  "load it and write Parquet (to_parquet)"
)
_ARRAYS = "Write its arrays as the columns of a Parquet file"
_ARCHIVE = "Unpack it and name the files, or pack them as zip"
_DATABASE = "Export the table as CSV or Parquet"
_XLSX = "Save it as .xlsx or as CSV"
_WEB = "Write its records as CSV or JSON"
_UNREAD = (
  dict.fromkeys((".pkl", ".pickle", ".joblib", ".pt", ".pth"), _PICKLE)
  | dict.fromkeys((".npz", ".npy", ".mat"), _ARRAYS)
  | dict.fromkeys((".sas7bdat", ".xpt", ".dta", ".sav", ".rds"), _PANDAS)
  | dict.fromkeys((".rdata", ".h5", ".hdf", ".hdf5"), _PANDAS)
  | dict.fromkeys((".xlsb", ".ods", ".numbers"), _XLSX)
  | dict.fromkeys((".tar", ".tgz", ".7z", ".rar", ".lz4", ".sz"), _ARCHIVE)
  | dict.fromkeys((".snappy", ".br", ".z", ".lzo"), _ARCHIVE)
  | dict.fromkeys((".db", ".sqlite", ".sqlite3", ".duckdb"), _DATABASE)
  | dict.fromkeys((".sql", ".mdb", ".accdb"), _DATABASE)
  | dict.fromkeys((".xml", ".html", ".htm"), _WEB)
  | {
    ".avro": "Convert it to Parquet, e.g. with DuckDB or Spark",
    ".tfrecord": "Write its features as the columns of a Parquet file",
    ".pdf": "Export the table as CSV",
  }
)
# Before the length of each message; it begins no text.
ARROW_STREAM = b"\xff\xff\xff\xff"
_MAGIC = (
  (b"PAR1", "parquet"),
  (b"ORC", "orc"),
  (b"ARROW1", "arrow"),
  (ARROW_STREAM, "arrow"),
)
_UNREAD_MAGIC = (
  (b"PARE", "encrypted Parquet", "Write it without encryption"),
  (b"FEA1", "Feather of version 1", "Write it again with a newer pyarrow"),
  (b"Obj\x01", "Avro", _UNREAD[".avro"]),
  (b"\xd0\xcf\x11\xe0", "an old Excel file", _XLSX),
  (b"\x89HDF", "HDF5", _PANDAS),
  (b"\x93NUMPY", "a NumPy array", _ARRAYS),
  (b"SQLite format 3", "an SQLite database", _DATABASE),
  (b"7z\xbc\xaf", "a 7z archive", _ARCHIVE),
  (b"Rar!", "a rar archive", _ARCHIVE),
  (b"\x04\x22\x4d\x18", "lz4", _ARCHIVE),
  (b"\x1f\x9d", "an old .Z file", _ARCHIVE),
  (b"%PDF", "a PDF", _UNREAD[".pdf"]),
  (b"MATLAB", "a MATLAB file", _ARRAYS),
  (b"$FL2", "an SPSS file", _PANDAS),
  (b"version https://git-lfs", "a Git LFS pointer", "Run `git lfs pull`"),
)
_PICKLED = re.compile(rb"\x80[\x02-\x05](?:\x95.{8}|[\]}c(q(])", re.DOTALL)
_PAGE = re.compile(rb"\s*<(?:!doctype|html|\?xml)", re.IGNORECASE)
_TAR_AT, _TAR = 257, b"ustar"
_SEEN = 1 << 16


def refuse_unread(path: str, suffix: str) -> None:
  """Raises `InputError` for a suffix of a format that is not read."""
  if suffix in _UNREAD:
    raise InputError(f"{path}: {suffix} is not read. {_UNREAD[suffix]}.")


def of_bytes(head: bytes, path: str) -> str | None:
  """The format that the first bytes of a file name, or None.

  Args:
    head: First bytes of the file, unpacked.
    path: Path of the file, for messages.

  Raises:
    InputError: If it is a format that is not read.
  """
  for magic, name in _MAGIC:
    if head.startswith(magic):
      return name
  for magic, what, way_out in _UNREAD_MAGIC:
    if head.startswith(magic):
      raise InputError(f"{path} is {what}, which is not read. {way_out}.")
  if packed := containers.kind(head):
    raise InputError(
      f"{path} is packed twice: inside is {packed} again. Unpack it once."
    )
  if _PICKLED.match(head):
    raise InputError(f"{path}: {_PICKLE}.")
  if head[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
    raise InputError(f"{path} is a tar archive, which is not read. {_ARCHIVE}.")
  if _PAGE.match(head):
    raise InputError(
      f"{path} holds a web page or XML, not a table. If you downloaded it, "
      f"this may be an error page: look at it. {_WEB}."
    )
  return None


def of_text(head: str, suffix: str) -> str:
  """The format of a text, "json" or "csv".

  Args:
    head: First characters of the text.
    suffix: Suffix of the file's name, which says it where the text does not.
  """
  named = SUFFIXES.get(suffix)
  text = head.lstrip()
  if not text.startswith(("{", "[")):
    return "json" if named == "json" and not _is_header(text) else "csv"
  return "json" if named != "csv" or _begins_as_json(text[:_SEEN]) else "csv"


def _is_header(text: str) -> bool:
  """Whether a text that is called JSON begins like a CSV file."""
  line = text.partition("\n")[0]
  return bool(
    re.fullmatch(r"\"?[\w .:\-\"]+(?:[,;\t|]\"?[\w .:\-\"]+)+\r?", line)
  )


def _begins_as_json(text: str) -> bool:
  """Whether a text that is called CSV begins with JSON or printed Python.

  `[user],[item]` is a header of SQL Server.
  """
  try:
    _, end = json.JSONDecoder().raw_decode(text)
    return text[end : end + 1] in ("", "\n", "\r", " ")
  except ValueError:
    return bool(re.match(r"[{\[]\s*(?:u?['\"{\[]|-?\d)", text))


def note_suffix(
  found: str, path: str, suffix: str, problems: problems_lib.Problems
) -> None:
  """Says on the card that a file is not what its suffix says."""
  named = SUFFIXES.get(suffix, found)
  if named != found and found != "sequences":
    problems.note(
      "info",
      f"{problems_lib.base_name(path)} is read as {found}, which it holds, "
      f"though its suffix is {suffix}",
      f'LogFiles.format = "{named}"' if named in TEXT else "",
    )
