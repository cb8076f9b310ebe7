"""Weights that were chosen for a fusion, and what they were measured by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from calrec_jax.metrics.intervals import Interval


class Measured(NamedTuple):
  """A fusion and its members on the users who chose the weights.

  Every number is the NDCG@10 of these users or a difference of two, user by
  user, with its 95% interval.

  Attributes:
    users: Number of users.
    value: Mean of the fusion.
    alone: Mean of each member by itself.
    ahead: The fusion minus each member by itself.
    brings: The fusion minus the same without each member; None for a member
      that has no weight.
  """

  users: int
  value: Interval
  alone: tuple[Interval, ...]
  ahead: tuple[Interval, ...]
  brings: tuple[Interval | None, ...]

  def of_members(self) -> list[dict[str, Any]]:
    """What was measured of each member, JSON-ready."""
    return [
      {
        "alone": alone._asdict(),
        "ahead": ahead._asdict(),
        "brings": None if brings is None else brings._asdict(),
      }
      for alone, ahead, brings in zip(
        self.alone, self.ahead, self.brings, strict=True
      )
    ]

  @classmethod
  def read(cls, record: Mapping[str, Any]) -> Measured:
    """Reads back the `users`, `value` and `measured` of a record.

    Raises:
      KeyError, TypeError: if the record is no such mapping.
    """
    members = record["measured"]

    def column(key: str) -> tuple[Any, ...]:
      return tuple(
        None if member[key] is None else Interval(**member[key])
        for member in members
      )

    return cls(
      int(record["users"]),
      Interval(**record["fusion"]),
      *map(column, ("alone", "ahead", "brings")),
    )


class Chosen(NamedTuple):
  """Weights that were chosen and not given.

  Attributes:
    weights: Weight of each member; 0 leaves it out.
    how: Origin of the weights, human-readable, as in "chosen by 2,048
      validation users".
    measured: What the users who chose say of the members; None where nobody
      chose, or an earlier release did.
  """

  weights: tuple[float, ...]
  how: str
  measured: Measured | None = None
