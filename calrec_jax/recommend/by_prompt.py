"""Work on the device for token sequences, a batch at a time."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from calrec_jax.recommend.domain_model import DomainModel
from calrec_jax.recommend.memory import RecentlyUsed
from calrec_jax.recommend.prompts import TokenRows, token_rows

Value = TypeVar("Value")
Begin = Callable[[TokenRows], Any]
"""Gives the device a batch and does not wait for it."""
Finish = Callable[[TokenRows, Any], Sequence[Value]]
"""Waits for what `Begin` returned, and gives the value of each sequence."""

_REMEMBERED_PROMPTS = 2**14  # Some kilobytes each.


def in_batches(
  sequences: Sequence[np.ndarray],
  rows: int,
  smallest_length: int,
  begin: Begin,
  finish: Finish[Value],
) -> list[Value]:
  """The values of token sequences, in their order; see `token_rows`.

  The host finishes a batch while the device works on the next one.
  """
  found: dict[int, Value] = {}

  def end(batch: TokenRows, work: Any) -> None:
    found.update(zip(batch.indices, finish(batch, work), strict=True))

  begun = []
  for batch in token_rows(sequences, rows, smallest_length):
    begun.append((batch, begin(batch)))
    if len(begun) > 1:
      end(*begun.pop(0))
  for pair in begun:
    end(*pair)
  return [found[index] for index in range(len(sequences))]


class ByPrompt(Generic[Value]):
  """Computes a value for the prompt of every history, and remembers it."""

  def __init__(
    self, model: DomainModel, begin: Begin, finish: Finish[Value], *, rows: int
  ):
    """Takes the two halves of the work.

    Args:
      model: Writes the prompts; rows are spread over its mesh.
      begin: First half, see `Begin`.
      finish: Second half, see `Finish`.
      rows: Prompts of a batch on each device.
    """
    self._model, self._begin, self._finish = model, begin, finish
    self._rows = model.whole_rows(rows)
    self._known: RecentlyUsed[bytes, Value] = RecentlyUsed(_REMEMBERED_PROMPTS)

  def __call__(self, histories: Sequence[np.ndarray]) -> list[Value]:
    """The values of histories; those with the same prompt share one."""
    prompts = self._model.history_prompts(histories)
    return self._known.look_up([p.tobytes() for p in prompts], self._find)

  def _find(self, keys: list[bytes]) -> list[Value]:
    return in_batches(
      [np.frombuffer(key, np.int32) for key in keys],
      self._rows,
      self._model.limits.smallest_length,
      self._begin,
      self._finish,
    )
