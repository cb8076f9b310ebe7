"""Which layers of a decoder attend to the whole segment."""

from tests.fixtures import model_toys


def _global_layers(**shape):
  config = model_toys.config(**shape)
  return [layer for layer, whole in enumerate(config.is_global()) if whole]


def test_every_sixth_layer_is_global_as_in_gemma_3():
  shape = {"layers": 18, "window": 512, "global_every": 6}
  assert _global_layers(**shape) == [5, 11, 17]
  # Gemma 3 of 26 layers ends on two local ones.
  assert _global_layers(**{**shape, "layers": 26}) == [5, 11, 17, 23]


def test_without_a_window_all_layers_are_global():
  assert _global_layers(layers=4) == [0, 1, 2, 3]
