"""Which parameters a stage trains, and which are frozen.

Patterns are matched against the slash-joined paths in `model-info.txt`, such as
`layers/mlp/wi_0/kernel`. Frozen parameters have no gradient and no optimizer
state: a step differentiates the trained part of the tree alone.
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
  """A selection that matches none of the model's parameters."""


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
  r"""Selects the trained parameters; by default all of them.

  Attributes:
    trainable: Regular expressions; a parameter is trained if one of them
      matches in its path. `("lora_[ab]$",)` trains LoRA alone,
      `("layers/", "decoder_norm")` all but the embedding.
    frozen_dtype: Dtype in which the frozen matrices are stored, or None for the
      model's. "bfloat16" halves their memory, and changes no result where
      DecoderConfig.dtype is the same. Norm scales are not converted: they are
      few, and multiply in float32.
  """

  trainable: Sequence[str] = (".*",)
  frozen_dtype: str | None = None

  def __post_init__(self):
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
    """Whether the parameter at this slash-joined path is trained."""
    return any(re.search(pattern, path) for pattern in self.trainable)

  def split(self, params: Any) -> tuple[Any, Any]:
    """Splits a tree of parameters into the trained and the frozen part.

    Each part omits the leaves of the other, so that with everything trained the
    first is the tree itself and the second is empty.

    Raises:
      TuningError: If a pattern matches nothing, with the nearest paths, or if
        nothing is trained.
    """
    leaves = traverse_util.flatten_dict(params, sep="/")
    for pattern in self.trainable:
      if not any(re.search(pattern, path) for path in leaves):
        raise TuningError(
          f"Tuning.trainable: {pattern!r} matches no parameter's path. "
          f"The nearest are {', '.join(_nearest(pattern, leaves))}."
        )
    trained = {path: leaf for path, leaf in leaves.items() if self.trains(path)}
    if not trained:
      raise TuningError(
        "Tuning.trainable matches no parameter, so the stage would train "
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
    """The parameters, with frozen matrices converted to `frozen_dtype`."""
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
    """Summarises the number of parameters and the optimizer's memory.

    Args:
      params: Unboxed shapes of the parameters.
      opt_state: Unboxed shapes of the optimizer's state.
      shardings: Shardings of `opt_state`.
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
  """Merges the two parts that `Tuning.split` returns."""
  return traverse_util.unflatten_dict(
    traverse_util.flatten_dict(trained) | traverse_util.flatten_dict(frozen)
  )


def _nearest(pattern: str, paths: Iterable[str], count: int = 3) -> list[str]:
  """Paths most similar to the pattern, as a whole or in one part."""
  plain = re.sub(r"[^\w/]", "", pattern).lower()

  def similarity(path: str) -> float:
    return max(
      difflib.SequenceMatcher(None, plain, text).ratio()
      for text in (path, *path.split("/"))
    )

  return sorted(paths, key=similarity, reverse=True)[:count]
