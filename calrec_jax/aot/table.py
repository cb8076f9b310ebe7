"""Human-readable tables of the records of `calrec compile`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def render(records: Sequence[dict[str, Any]]) -> str:
  """Formats the records of `costs.measure`, with `stage` and `advice` added."""
  return "\n\n".join(_block(record) for record in records)


def _block(record: dict[str, Any]) -> str:
  peak, available = record["peak_bytes"], record["available_bytes"]
  kinds = dict(record["arguments"])
  verdict = "DOES NOT FIT"
  if record["fits"]:
    kinds["temporary"] = record["temporary_bytes"]
    verdict = f"{1 - peak / available:.0%} free"
  shown = ", ".join(f"{name} {_bytes(size)}" for name, size in kinds.items())
  lines = [
    f"{record['stage']} · {record['program']}: {record['what']}",
    f"  memory per chip   {_bytes(peak)} of {_bytes(available)}, {verdict} "
    f"({shown})",
  ]
  if record["fits"]:
    lines += _costs(record)
  for number, advice in enumerate(record.get("advice", ())):
    lines.append(f"  {'to change' if number == 0 else '':<18}{advice}")
  return "\n".join(lines)


def _costs(record: dict[str, Any]) -> list[str]:
  once = " (its loop counted once)" if record["open_loops"] else ""
  bound = ""
  if "utilisation_bound" in record:
    bound = f"; at most {record['utilisation_bound']:.0%} of the chips' FLOP/s"
  return [
    f"  matrix products   {_flops(record['executed_flops'])} per chip, "
    f"{_time(record['product_seconds'])}{once}",
    *(
      f"  {name:<30}{total['runs']:>7,} runs {_bytes(total['bytes']):>11}"
      for name, total in record["collectives"].items()
    ),
    f"  links             {_time(record['link_seconds'])} if nothing else ran",
    f"  bound             {_time(record['least_seconds'])} at least, set by "
    f"{record['limited_by']}{bound}",
  ]


def _bytes(size: float) -> str:
  for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
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
