"""Errors that a user can fix, and the checks of settings that raise them.

Every message says what is wrong, where, and what to do. `calrec` prints a
`CalrecError` as one line; any other exception is a bug and shows its traceback.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class CalrecError(Exception):
  """A mistake in settings, flags, input or environment."""


class InputError(CalrecError, ValueError):
  """A setting, flag or input file that cannot be used."""


class ConfigurationError(CalrecError, ValueError):
  """A configuration that cannot mean what its author intended."""


class DivergedError(CalrecError, ValueError):
  """A model whose losses, vectors or scores are no longer finite."""


class MissingPackageError(CalrecError, ModuleNotFoundError):
  """An optional package that is not installed."""


class Rule(NamedTuple):
  """What a setting must be.

  Attributes:
    holds: Function that tells whether a value satisfies the rule; a TypeError,
      for a value of another type, means that it does not.
    wanted: Text of the rule, after "must be".
  """

  holds: Callable[[Any], bool]
  wanted: str


def at_least(low: float) -> Rule:
  """Numbers of at least `low`."""
  return Rule(lambda value: value >= low, f"at least {low}")


def integer(low: int, below: int | None = None) -> Rule:
  """Whole numbers of at least `low` and, if given, less than `below`."""
  return Rule(
    lambda value: (
      isinstance(value, int)
      and not isinstance(value, bool)
      and low <= value < (math.inf if below is None else below)
    ),
    f"a whole number, at least {low}"
    + (f" and below {below}" if below is not None else ""),
  )


def above(low: float) -> Rule:
  """Numbers greater than `low`."""
  return Rule(lambda value: value > low, f"above {low}")


def within(interval: str) -> Rule:
  """Numbers in an interval such as "[0, 1)"."""
  low, high = map(float, interval[1:-1].split(","))
  return Rule(
    lambda value: (
      low <= value <= high
      and (value != low or interval[0] == "[")
      and (value != high or interval[-1] == "]")
    ),
    f"in {interval}",
  )


def one_of(*choices: Any) -> Rule:
  """One of the choices."""
  return Rule(
    lambda value: value in choices, f"one of {', '.join(map(repr, choices))}"
  )


def some_of(*choices: str) -> Rule:
  """A nonempty list or tuple of choices."""
  return Rule(
    lambda values: (
      not isinstance(values, str)
      and len(values) > 0
      and set(values) <= set(choices)
    ),
    f"a list of some of {', '.join(map(repr, choices))}",
  )


def optional(rule: Rule) -> Rule:
  """None, or a value that satisfies a rule."""
  return Rule(
    lambda value: value is None or rule.holds(value), f"{rule.wanted}, or None"
  )


def check(settings: Any, /, **rules: Rule) -> None:
  """Checks settings, for a `__post_init__`.

  Args:
    settings: Dataclass whose name gin files bind.
    **rules: Rule of each attribute.

  Raises:
    InputError: such as "Validation.period = 0: must be at least 1."
  """
  for name, rule in rules.items():
    value = getattr(settings, name)
    try:
      holds = rule.holds(value)
    except TypeError:
      holds = False
    if not holds:
      refuse(settings, name, f"must be {rule.wanted}.")


def refuse(settings: Any, name: str, why: str) -> None:
  """Raises `InputError` for an attribute; `why` states fault and remedy."""
  owner = type(settings).__name__
  raise InputError(f"{owner}.{name} = {getattr(settings, name)!r}: {why}")


def nearest(name: str, names: Iterable[str]) -> str:
  """`" Did you mean 'x'?"`, or an empty text if no name is close."""
  folded = {candidate.lower(): candidate for candidate in names}
  found = difflib.get_close_matches(str(name).lower(), folded, n=1, cutoff=0.6)
  return f" Did you mean {folded[found[0]]!r}?" if found else ""
