"""t5x's trees become the decoder's, or are refused with the reason."""

import numpy as np
import pytest

from calrec_jax.models.pretrained.t5x_names import T5xTree
from calrec_jax.weights.packages import WeightsError
from tests.fixtures import pretrained_toys


def gathered(tree, stored, params):
  found = {}
  for path, value in params.items():
    found[path] = np.full(value.shape, np.nan, value.dtype)
    for read in tree.pieces(path, value.shape, stored.__getitem__):
      piece = read()
      found[path][piece.start : piece.start + len(piece.values)] = piece.values
  return found


@pytest.mark.parametrize("form", ["t5x", "ours"])
def test_both_forms_give_the_parameters(form):
  _, params = pretrained_toys.model("llama")
  stored = pretrained_toys.t5x_tree(params) if form == "t5x" else params
  tree = T5xTree(stored)
  tree.check_parameters(params)
  for path, value in gathered(tree, stored, params).items():
    np.testing.assert_array_equal(value, params[path])


def test_unexpected_parameters_are_refused_with_the_reason():
  _, params = pretrained_toys.model("llama")
  stored = pretrained_toys.t5x_tree(params)
  stored["decoder/relpos_bias/rel_embedding"] = np.zeros((4, 32))
  with pytest.raises(WeightsError, match="rotary positions"):
    T5xTree(stored).check_parameters(params)
  stored = pretrained_toys.t5x_tree(params)
  stored["decoder/layers_0/mlp/wi/kernel"] = stored.pop(
    "decoder/layers_0/mlp/wi_0/kernel"
  )
  with pytest.raises(WeightsError, match="without a gate"):
    T5xTree(stored).check_parameters(params)


def test_other_shapes_and_depths_are_refused():
  _, params = pretrained_toys.model("llama")
  stored = pretrained_toys.t5x_tree(params)
  path = "decoder/layers_1/mlp/wo/kernel"
  with pytest.raises(WeightsError, match="layers/mlp/wo/kernel: 1 layers"):
    T5xTree({k: v for k, v in stored.items() if k != path}).check_parameters(
      params
    )
  stored[path] = stored[path].T
  stored["decoder/layers_0/mlp/wo/kernel"] = stored[path]
  with pytest.raises(WeightsError, match="layers/mlp/wo/kernel is"):
    T5xTree(stored).check_parameters(params)
