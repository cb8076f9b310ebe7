"""A bounded memory of the values that were used last."""

import collections
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class RecentlyUsed(Generic[Key, Value]):
  """Remembers the values that were used last, up to a number.

  Attributes:
    capacity: Number of values that are remembered.
  """

  def __init__(self, capacity: int):
    self.capacity = capacity
    self._values: collections.OrderedDict[Key, Value] = (
      collections.OrderedDict()
    )

  def __len__(self) -> int:
    return len(self._values)

  def look_up(
    self, keys: Sequence[Key], compute: Callable[[list[Key]], Sequence[Value]]
  ) -> list[Value]:
    """The values of keys, which may repeat; `compute` gives the unknown ones.

    Args:
      keys: Keys in any order.
      compute: Function from distinct unknown keys to their values.
    """
    missing = [key for key in dict.fromkeys(keys) if key not in self._values]
    new = dict(zip(missing, compute(missing), strict=True)) if missing else {}
    found = [new[key] if key in new else self._values[key] for key in keys]
    for key, value in zip(keys, found, strict=True):
      self._values[key] = value
      self._values.move_to_end(key)
    while len(self._values) > self.capacity:
      self._values.popitem(last=False)
    return found
