"""Work on the device for each distinct prompt, a batch at a time.

The host looks at the results of one batch while the device works on the next.
What was found for a prompt is remembered, so that it is computed once.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from calrec_jax.recommend.domain_model import DomainModel
from calrec_jax.recommend.memory import RecentlyUsed
from calrec_jax.recommend.prompts import TokenRows, token_rows

Value = TypeVar("Value")

_REMEMBERED_PROMPTS = 2**14  # Some kilobytes each.


class ByPrompt(Generic[Value]):
  """Finds a value for the prompt of every history."""

  def __init__(
    self,
    model: DomainModel,
    begin: Callable[[TokenRows, list[np.ndarray]], Any],
    finish: Callable[[TokenRows, Any], Sequence[Value]],
    *,
    rows: int,
  ):
    """Takes the two halves of the work.

    Args:
      model: Writes the prompts; rows are spread over its mesh.
      begin: Gives the device a batch, with all prompts of the call; does not
        wait for it.
      finish: Waits, and gives the value of each prompt of the batch.
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
    prompts = [np.frombuffer(key, np.int32) for key in keys]
    found: dict[int, Value] = {}
    for batch, begun in self._one_ahead(prompts):
      values = self._finish(batch, begun)
      found.update(zip(batch.places, values, strict=True))
    return [found[place] for place in range(len(prompts))]

  def _one_ahead(
    self, prompts: list[np.ndarray]
  ) -> Iterator[tuple[TokenRows, Any]]:
    """Batches whose work has begun, each after the next one's has, too."""
    waiting = None
    for batch in token_rows(
      prompts, self._rows, self._model.limits.smallest_length
    ):
      begun = batch, self._begin(batch, prompts)
      if waiting is not None:
        yield waiting
      waiting = begun
    if waiting is not None:
      yield waiting
