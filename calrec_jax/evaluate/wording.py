"""How the table and the report write metrics, numbers and intervals."""

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]

_NAMES = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR"}


def metric_label(name: str) -> str:
  """`ndcg@10` as `NDCG@10`; a metric of the text says so."""
  plain, of_text = name.removesuffix("_text"), name.endswith("_text")
  kind, _, cutoff = plain.partition("@")
  label = _NAMES.get(kind, kind.capitalize()) + (f"@{cutoff}" if cutoff else "")
  return f"{label} (text)" if of_text else label


def verdict(difference: Record) -> str:
  """`+`, `-` or `~`: does the interval of a difference leave out zero."""
  low, high = difference["low"], difference["high"]
  if low is None or low <= 0 <= high:
    return "~"
  return "+" if low > 0 else "-"


def number(value: float | None, signed: bool = False) -> str:
  """Four decimals, `.0788`: one user more or less of ten thousand."""
  if value is None:
    return "-"
  text = f"{value:+.4f}" if signed else f"{value:.4f}"
  return text.replace("0.", ".", 1) if abs(value) < 0.99995 else text


def interval(entry: Record, signed: bool = False) -> str:
  """`.0788 [.0712, .0866]`."""
  value = number(entry["value"], signed)
  if entry["low"] is None:
    return value
  low, high = number(entry["low"], signed), number(entry["high"], signed)
  return f"{value} [{low}, {high}]"


def rate(users_per_second: float) -> str:
  """Users per second with three digits at most."""
  if users_per_second >= 100:
    return f"{users_per_second:,.0f}"
  return f"{users_per_second:.3g}"
