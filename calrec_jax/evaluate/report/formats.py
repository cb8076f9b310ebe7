"""How the report writes numbers and texts: the filters of its templates."""

import re
from typing import Any

from calrec_jax.evaluate import members, wording

# The label of a field in an item's text.
_LABEL = re.compile(r"(?:^|(?<=\. ))([A-Z][A-Za-z ]{0,19}): ")


def percent(fraction: float, digits: int = 1) -> str:
  """`0.1234` as `12.3%`."""
  return f"{fraction:.{digits}%}"


def probability(fraction: float) -> str:
  """A percentage, or a power of ten where a percentage would show zero."""
  return percent(fraction) if fraction >= 0.001 else f"{fraction:.0e}"


def plain(value: Any) -> str:
  """A value of any kind: `1234567` as `1,234,567`, None as nothing."""
  if value is None or isinstance(value, bool):
    return {None: "", True: "yes", False: "no"}[value]
  if isinstance(value, int | float):
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
  if isinstance(value, list | tuple):
    return ", ".join(map(str, value))
  return str(value)


def phrase(key: str) -> str:
  """A key of a result file as a heading: `max_history` as `Max history`."""
  words = key.replace("_", " ")
  return words[:1].upper() + words[1:]


FILTERS = {
  "fields": _LABEL.split,
  "gloss": members.gloss,
  "interval": wording.interval,
  "metric_label": wording.metric_label,
  "number": wording.number,
  "percent": percent,
  "phrase": phrase,
  "plain": plain,
  "probability": probability,
  "rate": wording.rate,
  "verdict": wording.verdict,
}
