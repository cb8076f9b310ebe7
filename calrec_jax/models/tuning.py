"""Which parameters a stage trains, and which it leaves as they are.

Patterns are looked for in the slash-joined paths that `model-info.txt` shows,
as in `layers/mlp/wi_0/kernel`. Frozen parameters have no gradient and no
optimizer state: a step differentiates the trained part of the tree alone.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import gin
import jax
import numpy as np
from flax import traverse_util

from calrec_jax.errors import CalrecError, check, one_of, optional, refuse
from calrec_jax.models.decoder_config import DTYPES


class TuningError(CalrecError, ValueError):
  """A choice of parameters that no model has."""


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
  r"""The choice of trained parameters; by default all of them.

  Attributes:
    trainable: regular expressions; a parameter is trained if one of them is
      found in its path. `("lora_[ab]$",)` trains LoRA alone,
      `("layers/", "decoder_norm")` all but the embedding.
    frozen_dtype: "bfloat16" stores the frozen matrices in two bytes instead of
      four, which changes nothing where DecoderConfig.dtype is the same; None
      leaves them as the model has them. Norm scales stay as they are: they
      are few, and multiply in float32.
  """

  trainable: Sequence[str] = (".*",)
  frozen_dtype: str | None = None

  def __post_init__(self):
    """Refuses what is no list of expressions, and dtypes there are not."""
    check(self, frozen_dtype=optional(one_of(*DTYPES)))
    if isinstance(self.trainable, str):
      refuse(self, "trainable", f"write ({self.trainable!r},).")
    for pattern in self.trainable:
      try:
        re.compile(pattern)
      except re.error as error:
        refuse(
          self, "trainable", f"{pattern!r} is no regular expression: {error}."
        )

  def trains(self, path: str) -> bool:
    """Whether the parameter of this slash-joined path is trained."""
    return any(re.search(pattern, path) for pattern in self.trainable)

  def split(self, params: Any) -> tuple[Any, Any]:
    """The trained part of a tree of parameters, and the frozen one.

    What belongs to the other part is absent, so that with everything trained
    the first part is the tree itself and the second one is empty.

    Raises:
      TuningError: for a pattern that finds nothing, with the nearest paths,
        and where nothing is trained.
    """
    leaves = traverse_util.flatten_dict(params, sep="/")
    for pattern in self.trainable:
      if not any(re.search(pattern, path) for path in leaves):
        raise TuningError(
          f"Tuning.trainable: {pattern!r} is found in no parameter's path. "
          f"The nearest are {', '.join(_nearest(pattern, leaves))}."
        )
    trained = {path: leaf for path, leaf in leaves.items() if self.trains(path)}
    if not trained:
      raise TuningError(
        "Tuning.trainable names no parameter, so the stage would train "
        'nothing. Train everything with (".*",).'
      )
    frozen = {
      path: leaf for path, leaf in leaves.items() if path not in trained
    }
    return (
      traverse_util.unflatten_dict(trained, sep="/"),
      traverse_util.unflatten_dict(frozen, sep="/"),
    )

  def store(self, params: Any) -> Any:
    """The parameters, frozen matrices in the dtype they are stored in."""
    if self.frozen_dtype is None:
      return params
    dtype = np.dtype(self.frozen_dtype)
    stored = {
      path: leaf
      if self.trains(path) or path.endswith("/scale")
      else jax.tree.map(lambda array: array.astype(dtype), leaf)
      for path, leaf in traverse_util.flatten_dict(params, sep="/").items()
    }
    return traverse_util.unflatten_dict(stored, sep="/")

  def frozen_paths(self, params: Any) -> frozenset[str]:
    """Slash-joined paths of the frozen parameters."""
    _, frozen = self.split(params)
    return frozenset(traverse_util.flatten_dict(frozen, sep="/"))

  def summary(self, params: Any, opt_state: Any, shardings: Any) -> str:
    """Counts of parameters, and what the optimizer's state takes.

    Args:
      params: unboxed shapes of the parameters.
      opt_state: unboxed shapes of the optimizer's state.
      shardings: of `opt_state`.
    """
    trained, frozen = (
      sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part))
      for part in self.split(params)
    )
    whole = local = 0
    for leaf, sharding in zip(
      jax.tree.leaves(opt_state), jax.tree.leaves(shardings), strict=True
    ):
      itemsize = np.dtype(leaf.dtype).itemsize
      whole += math.prod(leaf.shape) * itemsize
      local += math.prod(sharding.shard_shape(leaf.shape)) * itemsize
    return (
      f"{trained:,} parameters are trained, {frozen:,} are frozen; optimizer "
      f"state {whole:,} bytes, {local:,} bytes on each device"
    )


EVERYTHING = Tuning()


def join(trained: Any, frozen: Any) -> Any:
  """The whole tree of the two parts that `Tuning.split` gives."""
  return traverse_util.unflatten_dict(
    traverse_util.flatten_dict(trained) | traverse_util.flatten_dict(frozen)
  )


def _nearest(pattern: str, paths: Iterable[str], count: int = 3) -> list[str]:
  """Paths that are, or of which a part is, most like the pattern."""
  plain = re.sub(r"[^\w/]", "", pattern).lower()

  def likeness(path: str) -> float:
    return max(
      difflib.SequenceMatcher(None, plain, text).ratio()
      for text in (path, *path.split("/"))
    )

  return sorted(paths, key=likeness, reverse=True)[:count]
