"""Decoder-only checkpoints of t5x, to the decoder's parameters.

t5x's own names differ from ours in a few words, its layers may stand one by
one (`layers_0`, `layers_1`, ...) and its heads may be joined with their
features. What has no place here, such as T5's relative position biases, is
refused: the model would compute something else without it.
"""

from __future__ import annotations

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
  "relpos_bias": (
    "T5's relative position biases (the decoder has rotary positions)"
  ),
  "wi": "a feed-forward layer without a gate (mlp_activations of one entry)",
}


class T5xTree:
  """The arrays of a t5x checkpoint by our paths.

  Attributes:
    arrays: stored path by our path, or a list of them, one a layer.
  """

  def __init__(self, stored: Mapping[str, Any]):
    """Names what a checkpoint holds.

    Args:
      stored: shapes by path below `target`.
    """
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

  def refuse_other(self, wanted: Mapping[str, Any]) -> None:
    """Refuses a tree that is not the decoder's.

    Args:
      wanted: shapes by our path.

    Raises:
      WeightsError: with everything missing, further and differing.
    """
    faults = [f"missing {path}" for path in sorted(wanted - self.arrays.keys())]
    for path in sorted(self.arrays.keys() - wanted.keys()):
      known = [word for word in _REMEDIES if word in path.split("/")]
      faults.append(
        f"further {path}" + (f": {_REMEDIES[known[0]]}" if known else "")
      )
    for path in sorted(self.arrays.keys() & wanted.keys()):
      shape = tuple(wanted[path].shape)
      at = self.arrays[path]
      found = [tuple(self._stored[name].shape) for name in np.atleast_1d(at)]
      numbered = isinstance(at, list)
      inside = shape[1:] if numbered else shape
      if numbered and len(at) != shape[0]:
        faults.append(f"{path}: {len(at)} layers, the model wants {shape[0]}")
      elif any(not _fits(stored, inside) for stored in found):
        faults.append(f"{path} is {found[0]}, the model wants {inside}")
    if faults:
      raise WeightsError(
        "This t5x checkpoint is of another model (see DecoderConfig): "
        + "; ".join(faults[:8])
        + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
      )

  def pieces(
    self,
    path: str,
    shape: tuple[int, ...],
    read: Callable[[str], np.ndarray],
  ) -> Iterator[Callable[[], Piece]]:
    """A parameter in parts of one stored array; see `loading.read_pieces`.

    Args:
      path: ours.
      shape: of the parameter.
      read: gives a stored array.
    """
    at = self.arrays[path]
    if not isinstance(at, list):
      yield lambda: Piece(0, 0, read(at).reshape(shape))
      return
    for layer, name in enumerate(at):
      yield lambda layer=layer, name=name: Piece(
        0, layer, read(name).reshape(shape[1:])[None]
      )


def _fits(stored: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
  """Whether one shape is the other with neighbouring axes joined."""
  if stored == wanted:
    return True
  return len(stored) == 2 < len(wanted) and any(
    stored == (int(np.prod(wanted[:cut])), int(np.prod(wanted[cut:])))
    for cut in range(1, len(wanted))
  )
