"""Inline SVG figures, coloured by the page's style sheet.

A figure is drawn from numbers alone, has a text for those who do not see it,
and refers to nothing outside the page.
"""

import math
from collections.abc import Sequence

from calrec_jax.evaluate.report.markup import Html, escape, tag

Number = float | int
Point = tuple[Number, Number]

BAR_WIDTH, BAR_HEIGHT = 132, 14
_CHART = (340, 190)
_MARGINS = (44, 12, 10, 26)  # Left, right, top, bottom; room for the labels.
_BINS = 160
_BAR_WIDTH, _BAR_ROW, _BAR_AXIS = 340, 21, 22
_LETTER = 6.1  # Width of one, on the average, at the size of the page's labels.
_LONGEST_LABEL = 22


def interval_bar(
  value: Number, low: Number, high: Number, start: Number, stop: Number
) -> Html:
  """An interval with its value on an axis from `start` to `stop`.

  A hairline marks zero where the axis passes it.
  """
  pad = 5

  def place(number: Number) -> float:
    share = (number - start) / (stop - start) if stop > start else 0.5
    return round(pad + share * (BAR_WIDTH - 2 * pad), 1)

  middle = BAR_HEIGHT / 2
  marks = [_line(pad, middle, BAR_WIDTH - pad, middle, "axis")]
  if start < 0 < stop:
    marks.append(_line(place(0), 1, place(0), BAR_HEIGHT - 1, "zero"))
  marks += [
    tag(
      "rect",
      x=place(low),
      y=middle - 3,
      width=max(round(place(high) - place(low), 1), 1),
      height=6,
      rx=3,
      class_="span",
    ),
    tag("circle", cx=place(value), cy=middle, r=3.4, class_="dot"),
  ]
  return _svg(
    (BAR_WIDTH, BAR_HEIGHT), f"from {low:.4f} to {high:.4f}", marks, "interval"
  )


def share_bar(share: Number) -> Html:
  """A share from 0 to 1 as a filled bar."""
  filled = round(min(max(share, 0.0), 1.0) * 100, 1)
  marks = [
    tag("rect", x=0, y=0, width=100, height=6, rx=3, class_="track"),
    tag("rect", x=0, y=0, width=filled, height=6, rx=3, class_="fill"),
  ]
  return _svg((100, 6), f"{share:.1%}", marks, "share")


def bars(
  title: str,
  note: str,
  rows: Sequence[tuple[str, Number, Number, Number]],
  stop: Number,
) -> Html:
  """Values as bars from zero, each with its interval as a whisker.

  Args:
    title: what all of them are of.
    note: what is to be known of it, in small print.
    rows: label, value, low and high of each.
    stop: end of the axis; equal for charts that are to be compared.

  Returns:
    A `figure` element.
  """
  shown = [_shortened(row[0]) for row in rows]
  left = round(_LETTER * max(map(len, shown), default=0) + 10, 1)
  ticks = nice_ticks(0, stop, 3)
  x = _scale(0, ticks[-1], left, _BAR_WIDTH - 14)
  floor = _BAR_ROW * len(rows) + 2
  marks = []
  for tick in ticks:
    marks.append(_line(x(tick), 0, x(tick), floor, "axis"))
    marks.append(_text(x(tick), floor + 15, f"{tick:g}", "middle"))
  for place, (label, row) in enumerate(zip(shown, rows, strict=True)):
    _, value, low, high = row
    middle = _BAR_ROW * (place + 0.5) + 1
    width = max(round(x(value) - left, 1), 0.5)
    marks += [
      _text(left - 7, middle + 4, label, "end"),
      tag("rect", x=left, y=middle - 5, width=width, height=10, class_="span"),
      _line(x(low), middle, x(high), middle, "whisker"),
      _line(x(low), middle - 3, x(low), middle + 3, "whisker"),
      _line(x(high), middle - 3, x(high), middle + 3, "whisker"),
    ]
  told = ", ".join(
    f"{name} {value:.4f} [{low:.4f}, {high:.4f}]"
    for name, value, low, high in rows
  )
  size = (_BAR_WIDTH, floor + _BAR_AXIS)
  return tag(
    "figure",
    tag("figcaption", title, " ", tag("small", note)),
    _svg(size, f"{title}: {told}", marks, "chart"),
  )


def setting_curve(
  title: str,
  points: Sequence[tuple[Number, Number, Number, Number]],
) -> Html:
  """One quantity for values of a setting, with the band of its intervals.

  Args:
    title: what is drawn, and over what.
    points: value of the setting, mean, low and high; settings rise. Where all
      are above 0 and span a factor of 4 their axis is logarithmic.

  Returns:
    A `figure` element.
  """
  settings = [point[0] for point in points]
  logarithmic = settings[0] > 0 and settings[-1] >= 4 * settings[0]
  places = [math.log2(s) if logarithmic else s for s in settings]
  across = _scale(
    places[0], places[-1], _MARGINS[0] + 6, _CHART[0] - _MARGINS[1] - 6
  )
  xs = [across(place) for place in places]
  ticks = nice_ticks(
    min(low for _, _, low, _ in points), max(high for *_, high in points)
  )
  y = _scale(ticks[0], ticks[-1], _CHART[1] - _MARGINS[3], _MARGINS[2])
  marks = _grid(across, y, ticks, ())
  marks += [
    _text(x, _CHART[1] - _MARGINS[3] + 17, f"{setting:g}", "middle")
    for x, setting in zip(xs, settings, strict=True)
  ]
  upper = [(x, y(point[3])) for x, point in zip(xs, points, strict=True)]
  lower = [(x, y(point[2])) for x, point in zip(xs, points, strict=True)]
  mean = [(x, y(point[1])) for x, point in zip(xs, points, strict=True)]
  marks += [
    tag("polygon", points=_path([*upper, *reversed(lower)]), class_="band"),
    tag("polyline", points=_path(mean), class_="train"),
    *(tag("circle", cx=cx, cy=cy, r=3.2, class_="dot") for cx, cy in mean),
  ]
  told = ", ".join(f"{s:g}: {mean:.4f}" for s, mean, _, _ in points)
  first, last = points[0], points[-1]
  return tag(
    "figure",
    tag("figcaption", title),
    _svg(_CHART, f"{title}: {told}", marks, "chart"),
    tag(
      "p",
      f"{first[1]:.4f} at {first[0]:g} → {last[1]:.4f} at {last[0]:g}",
      class_="reading",
    ),
  )


def curve(
  title: str,
  lines: Sequence[Point],
  points: Sequence[Point],
) -> Html:
  """A chart of one quantity over training steps.

  Args:
    title: what is drawn, with its unit.
    lines: (step, value) of training; many are drawn as mean and range of bins.
    points: (step, value) of validation.

  Returns:
    A `figure` element, or nothing where there is nothing to draw.
  """
  lines = [pair for pair in lines if math.isfinite(pair[1])]
  points = [pair for pair in points if math.isfinite(pair[1])]
  if not lines and not points:
    return Html("")
  bins = _bins(lines)
  steps = [pair[0] for pair in (*lines, *points)]
  values = [
    *(bound for _, _, low, high in bins for bound in (low, high)),
    *(value for _, value in points),
  ]
  x = _scale(0, max(steps), _MARGINS[0], _CHART[0] - _MARGINS[1])
  ticks = nice_ticks(min(values), max(values))
  bottom, top = min(ticks[0], *values), max(ticks[-1], *values)
  y = _scale(bottom, top, _CHART[1] - _MARGINS[3], _MARGINS[2])
  marks = _grid(x, y, ticks, nice_ticks(0, max(steps), 3))
  if bins:
    upper = [(x(step), y(high)) for step, _, _, high in bins]
    lower = [(x(step), y(low)) for step, _, low, _ in reversed(bins)]
    mean = [(x(step), y(value)) for step, value, _, _ in bins]
    marks.append(tag("polygon", points=_path(upper + lower), class_="band"))
    marks.append(tag("polyline", points=_path(mean), class_="train"))
  if points:
    shown = [(x(step), y(value)) for step, value in points]
    marks.append(tag("polyline", points=_path(shown), class_="valid-line"))
    marks += [
      tag("circle", cx=cx, cy=cy, r=3, class_="valid") for cx, cy in shown
    ]
  return tag(
    "figure",
    tag("figcaption", title),
    _svg(_CHART, f"{title}: {_reading(lines, points)}", marks, "chart"),
    tag("p", _reading(lines, points), class_="reading"),
  )


def nice_ticks(low: Number, high: Number, count: int = 4) -> list[Number]:
  """About `count` round numbers that reach from `low` to `high`."""
  if not high > low:
    low, high = low - 0.5, high + 0.5
  raw = (high - low) / count
  unit = 10.0 ** math.floor(math.log10(raw))
  step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.999)
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  return [round(place * step, 12) for place in range(first, last + 1)]


def _bins(
  lines: Sequence[Point],
) -> list[tuple[Number, Number, Number, Number]]:
  """(step, mean, least, greatest) of at most `_BINS` runs of steps."""
  size = max(1, math.ceil(len(lines) / _BINS))
  found = []
  for start in range(0, len(lines), size):
    part = lines[start : start + size]
    values = [value for _, value in part]
    step = sum(step for step, _ in part) / len(part)
    found.append((step, sum(values) / len(part), min(values), max(values)))
  return found


def _reading(lines: Sequence[Point], points: Sequence[Point]) -> str:
  parts = []
  if lines:
    parts.append(f"training {lines[0][1]:.3g} → {lines[-1][1]:.3g}")
  if points:
    parts.append(f"validation {points[-1][1]:.3g} at the end")
  return ", ".join(parts)


def _grid(x, y, ticks: Sequence[Number], steps: Sequence[Number]) -> list[Html]:
  left, right = _MARGINS[0], _CHART[0] - _MARGINS[1]
  floor = _CHART[1] - _MARGINS[3]
  marks = []
  for tick in ticks:
    marks.append(_line(left, y(tick), right, y(tick), "axis"))
    marks.append(_text(left - 6, y(tick) + 4, f"{tick:g}", "end"))
  for step in steps:
    if x(step) <= right + 0.5:
      marks.append(_text(x(step), floor + 17, f"{step:,g}", "middle"))
  return marks


def _shortened(label: str) -> str:
  if len(label) <= _LONGEST_LABEL:
    return label
  return label[: _LONGEST_LABEL - 1] + "…"


def _scale(low: Number, high: Number, start: Number, stop: Number):
  """The map of [low, high] to [start, stop] in tenths of a pixel."""
  width = (high - low) or 1.0

  def place(value: Number) -> float:
    return round(start + (value - low) / width * (stop - start), 1)

  return place


def _path(points: Sequence[Point]) -> str:
  return " ".join(f"{x:g},{y:g}" for x, y in points)


def _line(x1: Number, y1: Number, x2: Number, y2: Number, kind: str) -> Html:
  return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _text(x: Number, y: Number, words: str, anchor: str) -> Html:
  return tag("text", words, x=x, y=y, text_anchor=anchor)


def _svg(
  size: tuple[int, int], label: str, marks: Sequence[Html], kind: str
) -> Html:
  width, height = size
  # viewBox is the one attribute of SVG used here that is not lower case.
  opening = (
    f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
    f'class="{escape(kind)}" role="img" aria-label="{escape(label)}">'
  )
  return Html(opening + "".join(marks) + "</svg>")
