"""Errors that a user can mend, and the checks of settings that raise them.

Every message says what is wrong, where, and what to do. `calrec` prints a
`CalrecError` as one line; any other exception is a bug and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class CalrecError(Exception):
  """A mistake in settings, flags, input or environment."""


class InputError(CalrecError, ValueError):
  """A setting, flag or input file that cannot be used."""


class DivergedError(CalrecError, ValueError):
  """A model whose losses, vectors or scores are no longer finite."""


class MissingPackageError(CalrecError, ModuleNotFoundError):
  """An optional package that is not installed."""


class Rule(NamedTuple):
  """What a setting must be.

  Attributes:
    holds: Whether a value obeys the rule; may raise TypeError for a value of
      another type, which does not.
    wanted: The rule in words, after "must be".
  """

  holds: Callable[[Any], bool]
  wanted: str


def at_least(low: float) -> Rule:
  """Numbers from `low` on."""
  return Rule(lambda value: value >= low, f"at least {low}")


def integer(low: int, below: int | None = None) -> Rule:
  """Whole numbers from `low` on, less than `below` where it is given."""
  return Rule(
    lambda value: (
      isinstance(value, int)
      and not isinstance(value, bool)
      and low <= value
      and (below is None or value < below)
    ),
    f"a whole number, at least {low}"
    + (f" and below {below}" if below is not None else ""),
  )


def above(low: float) -> Rule:
  """Numbers greater than `low`."""
  return Rule(lambda value: value > low, f"above {low}")


def within(interval: str) -> Rule:
  """Numbers of an interval such as "[0, 1)"; a round bracket excludes."""
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
  """One of some values."""
  return Rule(
    lambda value: value in choices, f"one of {', '.join(map(repr, choices))}"
  )


def some_of(*choices: str) -> Rule:
  """A list or tuple of one value or more, all among the choices."""
  return Rule(
    lambda values: (
      not isinstance(values, str)
      and len(values) > 0
      and set(values) <= set(choices)
    ),
    f"a list of some of {', '.join(map(repr, choices))}",
  )


def optional(rule: Rule) -> Rule:
  """None, or what a rule allows."""
  return Rule(
    lambda value: value is None or rule.holds(value), f"{rule.wanted}, or None"
  )


def check(settings: Any, /, **rules: Rule) -> None:
  """Refuses settings that break a rule; called by `__post_init__`.

  Args:
    settings: Record whose class has the name that gin files bind.
    **rules: Rule of each attribute.

  Raises:
    InputError: as in "Validation.period = 0: must be at least 1."
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
  """Raises `InputError` for one attribute.

  Args:
    settings: Record whose class has the name that gin files bind.
    name: Name of the attribute.
    why: Sentence that says what is wrong with it and what to do.
  """
  owner = type(settings).__name__
  raise InputError(f"{owner}.{name} = {getattr(settings, name)!r}: {why}")


def nearest(name: str, names: Iterable[str]) -> str:
  """`" Did you mean 'x'?"`, or an empty text where nothing is near."""
  folded = {candidate.lower(): candidate for candidate in names}
  found = difflib.get_close_matches(str(name).lower(), folded, n=1, cutoff=0.6)
  return f" Did you mean {folded[found[0]]!r}?" if found else ""
