"""Geometry of the report's figures; `figures.html.j2` draws them as SVG.

Coordinates are pixels, rounded to one decimal.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Number = float | int
Point = tuple[Number, Number]
Interval = tuple[Number, Number, Number, Number]

_LEFT, _RIGHT, _TOP, _FLOOR = 44, 328, 10, 164  # Plot area of a line chart.
_BINS = 160


def setting_curve(
  title: str,
  settings: Sequence[Number],
  entries: Sequence[Mapping[str, Number]],
) -> dict[str, Any]:
  """One quantity for values of a setting, with the band of its intervals.

  Args:
    title: Title of the chart: the quantity, and the setting.
    settings: Values of the setting, ascending. Where all are positive and span
      a factor of 4, their axis is logarithmic.
    entries: Mappings of `value`, `low` and `high`, one of each setting.

  Returns:
    What the macro `chart` draws.
  """
  points = [
    (setting, entry["value"], entry["low"], entry["high"])
    for setting, entry in zip(settings, entries, strict=True)
  ]
  first, last = points[0], points[-1]
  axis = math.log2 if 0 < 4 * first[0] <= last[0] else float
  across = scale(axis(first[0]), axis(last[0]), _LEFT + 6, _RIGHT - 6)
  figure = _line_chart(
    points,
    x=lambda setting: across(axis(setting)),
    x_ticks=settings,
    y_ticks=nice_ticks(min(p[2] for p in points), max(p[3] for p in points)),
  )
  alt = ", ".join(f"{point[0]:g}: {point[1]:.4f}" for point in points)
  reading = f"{first[1]:.4f} at {first[0]:g} → {last[1]:.4f} at {last[0]:g}"
  named = {"title": title, "alt": alt, "reading": reading}
  return figure | named | {"dots": figure["line"]}


def training_curve(
  title: str, train: Sequence[Point], validation: Sequence[Point]
) -> dict[str, Any] | None:
  """A chart of one quantity over training steps.

  Args:
    title: Title of the chart: the quantity, and its unit.
    train: Step and value of each training record; a long series is drawn as the
      mean and the range of its bins.
    validation: Step and value of each validation.

  Returns:
    What the macro `chart` draws, or None where no value is finite.
  """
  train = [point for point in train if math.isfinite(point[1])]
  validation = [point for point in validation if math.isfinite(point[1])]
  if not train and not validation:
    return None
  steps, values = zip(*train, *validation, strict=True)
  x = scale(0, max(steps) or 1, _LEFT, _RIGHT)
  ticks = nice_ticks(0, max(steps) or 1, 3)
  figure = _line_chart(
    _bins(train),
    validation,
    x=x,
    x_ticks=[step for step in ticks if x(step) <= _RIGHT + 0.5],
    y_ticks=nice_ticks(min(values), max(values)),
  )
  parts = []
  if train:
    parts.append(f"training {train[0][1]:.3g} → {train[-1][1]:.3g}")
  if validation:
    parts.append(f"validation {validation[-1][1]:.3g} at the end")
  reading = ", ".join(parts)
  return figure | {"title": title, "alt": reading, "reading": reading}


def nice_ticks(low: Number, high: Number, count: int = 4) -> list[Number]:
  """About `count` round numbers that reach from `low` to `high`."""
  if not high > low:
    low, high = low - 0.5, high + 0.5
  raw = (high - low) / count
  unit = 10.0 ** math.floor(math.log10(raw))
  step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.999)
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  return [round(tick * step, 12) for tick in range(first, last + 1)]


def scale(
  low: Number, high: Number, start: Number, stop: Number
) -> Callable[[Number], float]:
  """The map of [low, high] to [start, stop]; an empty range to the middle."""

  def position(value: Number) -> float:
    fraction = (value - low) / (high - low) if high > low else 0.5
    return round(start + fraction * (stop - start), 1)

  return position


def _line_chart(
  points: Sequence[Interval],
  validation: Sequence[Point] = (),
  *,
  x: Callable[[Number], float],
  x_ticks: Sequence[Number],
  y_ticks: Sequence[Number],
) -> dict[str, Any]:
  """Axes, marks of `validation`, and line and band of (x, mean, low, high)."""
  y = scale(y_ticks[0], y_ticks[-1], _FLOOR, _TOP)
  upper = [(x(at), y(high)) for at, _, _, high in points]
  lower = [(x(at), y(low)) for at, _, low, _ in points]
  return {
    "x_ticks": [(x(tick), f"{tick:,g}") for tick in x_ticks],
    "y_ticks": [(y(tick), f"{tick:g}") for tick in y_ticks],
    "line": [(x(at), y(mean)) for at, mean, _, _ in points],
    "band": [*upper, *reversed(lower)],
    "validation": [(x(step), y(value)) for step, value in validation],
    "dots": [],
  }


def _bins(points: Sequence[Point]) -> list[Interval]:
  """Mean step, mean, minimum and maximum of at most `_BINS` runs of steps."""
  size = max(1, math.ceil(len(points) / _BINS))
  bins = []
  for start in range(0, len(points), size):
    steps, values = zip(*points[start : start + size], strict=True)
    means = sum(steps) / len(steps), sum(values) / len(values)
    bins.append((*means, min(values), max(values)))
  return bins
