"""Conversion of t5x's decoder-only checkpoints to the decoder's parameters.

t5x's names differ from ours in a few words, its layers may be separate
(`layers_0`, `layers_1`, ...) and the axes of heads and features may be merged.
Unknown parameters, such as T5's relative position biases, are refused: without
them the model would compute something else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from calrec_jax.models.pretrained.pieces import Piece
from calrec_jax.weights.packages import WeightsError

_WORDS = {
  "self_attention": "attention",
  "pre_self_attention_layer_norm": "pre_attention_norm",
  "post_self_attention_layer_norm": "post_attention_norm",
  "pre_mlp_layer_norm": "pre_mlp_norm",
  "post_mlp_layer_norm": "post_mlp_norm",
}
_REMEDIES = {
  "relpos_bias": "T5's relative position biases (ours are rotary positions)",
  "wi": "a feed-forward layer without a gate (mlp_activations of one entry)",
}


class T5xTree:
  """The arrays of a t5x checkpoint, by the decoder's paths.

  Attributes:
    arrays: Stored path, or a list with one per layer, by the decoder's path.
  """

  def __init__(self, stored: Mapping[str, Any]):
    """Maps the stored paths, those below `target`, with their shapes."""
    self.arrays: dict[str, str | list[str]] = {}
    layers: dict[str, dict[int, str]] = {}
    for path in stored:
      parts = path.split("/")
      parts = parts[1:] if parts[0] == "decoder" else parts
      parts = [_WORDS.get(part, part) for part in parts]
      number = parts[0].removeprefix("layers_")
      if number != parts[0] and number.isdecimal():
        ours = "/".join(["layers", *parts[1:]])
        layers.setdefault(ours, {})[int(number)] = path
      else:
        self.arrays["/".join(parts)] = path
    for ours, numbered in layers.items():
      self.arrays[ours] = [numbered[layer] for layer in sorted(numbered)]
    self._stored = stored

  def check_parameters(self, wanted: Mapping[str, Any]) -> None:
    """Raises a WeightsError with every difference from the decoder's shapes.

    Args:
      wanted: Shapes by the decoder's path.
    """
    faults = [f"missing {path}" for path in sorted(wanted - self.arrays.keys())]
    for path in sorted(self.arrays.keys() - wanted.keys()):
      known = [_REMEDIES[part] for part in path.split("/") if part in _REMEDIES]
      faults.append(": ".join([f"unexpected {path}", *known]))
    for path in sorted(self.arrays.keys() & wanted.keys()):
      shape = tuple(wanted[path].shape)
      at = self.arrays[path]
      found = [tuple(self._stored[name].shape) for name in np.atleast_1d(at)]
      numbered = isinstance(at, list)
      inside = shape[1:] if numbered else shape
      if numbered and len(at) != shape[0]:
        faults.append(f"{path}: {len(at)} layers, the model expects {shape[0]}")
      elif any(not _fits(stored, inside) for stored in found):
        faults.append(f"{path} is {found[0]}, the model expects {inside}")
    if faults:
      raise WeightsError(
        "This t5x checkpoint does not match the model (see DecoderConfig): "
        + "; ".join(faults[:8])
        + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
      )

  def pieces(
    self, path: str, shape: tuple[int, ...], read: Callable[[str], np.ndarray]
  ) -> Iterator[Callable[[], Piece]]:
    """Splits a parameter into its stored arrays; see `loading.read_pieces`.

    Args:
      path: Path in the decoder's tree.
      shape: Shape of the parameter.
      read: Function from a stored path to its array.
    """
    at = self.arrays[path]
    shape = (1, *shape[1:]) if isinstance(at, list) else shape
    for layer, name in enumerate(at if isinstance(at, list) else [at]):
      yield lambda layer=layer, name=name: Piece(
        0, layer, read(name).reshape(shape)
      )


def _fits(stored: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
  """Whether one shape is the other with adjacent axes merged."""
  return stored == wanted or any(
    stored == (math.prod(wanted[:cut]), math.prod(wanted[cut:]))
    for cut in range(1, len(wanted))
  )
