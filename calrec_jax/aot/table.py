"""The records of `calrec compile` as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_GIB = 2**30


def render(records: Sequence[dict[str, Any]]) -> str:
  """A block of lines for each program.

  Args:
    records: Records of `costs.measure`, with `stage` and `advice` added.
  """
  return "\n\n".join(_block(record) for record in records)


def _block(record: dict[str, Any]) -> str:
  lines = [f"{record['stage']} · {record['program']}: {record['what']}"]
  peak, available = record["peak_bytes"], record["available_bytes"]
  spare = 1 - peak / available
  verdict = f"{spare:.0%} free" if record["fits"] else "DOES NOT FIT"
  kinds = [
    f"{name} {_bytes(size)}" for name, size in record["arguments"].items()
  ]
  if record["fits"]:
    kinds.append(f"temporary {_bytes(record['temporary_bytes'])}")
  lines.append(
    f"  memory of a chip  {_bytes(peak)} of {_bytes(available)}, {verdict} "
    f"({', '.join(kinds)})"
  )
  if record["fits"]:
    lines += _costs(record)
  for number, advice in enumerate(record.get("advice", ())):
    lines.append(f"  {'to change' if number == 0 else '':<18}{advice}")
  return "\n".join(lines)


def _costs(record: dict[str, Any]) -> list[str]:
  turn = " (its loop counted once)" if record["open_loops"] else ""
  lines = [
    f"  matrix products   {_flops(record['executed_flops'])} on a chip, "
    f"{_time(record['product_seconds'])}{turn}"
  ]
  for name, total in record["collectives"].items():
    lines.append(
      f"  {name:<30}{total['runs']:>7,} runs {_bytes(total['bytes']):>11}"
    )
  lines.append(
    f"  links             {_time(record['link_seconds'])} if they were all "
    "that happened"
  )
  bound = (
    f"; at most {record['utilisation_bound']:.0%} of the chips' FLOP/s"
    if "utilisation_bound" in record
    else ""
  )
  lines.append(
    f"  bound             {_time(record['least_seconds'])} at least, set by "
    f"{record['limited_by']}{bound}"
  )
  return lines


def _bytes(size: float) -> str:
  for unit, factor in (("GiB", _GIB), ("MiB", 2**20), ("KiB", 2**10)):
    if size >= factor:
      return f"{size / factor:,.2f} {unit}"
  return f"{size:,.0f} B"


def _flops(count: float) -> str:
  for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
    if count >= factor:
      return f"{count / factor:,.2f} {unit}FLOP"
  return f"{count:,.0f} FLOP"


def _time(seconds: float) -> str:
  if seconds >= 1:
    return f"{seconds:,.2f} s"
  return f"{seconds * 1e3:,.3f} ms"
