"""Decay, clipping and the schedule, on arrays one can check by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax import optimizers, partitioning, state
from calrec_jax.models.decoder import Decoder, DecoderConfig

PARAMS = {
  "layers": {"norm": {"scale": np.ones(3)}, "mlp": {"kernel": np.ones((3, 2))}},
  "embed": {"embedding": np.ones((4, 3))},
  "out": {"bias": np.ones(2)},
}


def updates(gradient, **settings):
  optimizer = optimizers.adamw(optimizers.constant(0.1), **settings)
  params = jax.tree.map(jnp.asarray, PARAMS)
  gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), params)
  result, _ = optimizer.update(gradients, optimizer.init(params), params)
  return result


def test_norm_scales_and_biases_are_not_decayed():
  # Without a gradient, decay alone moves a parameter.
  moved = updates(0.0, weight_decay=0.5)
  np.testing.assert_array_equal(moved["layers"]["norm"]["scale"], 0)
  np.testing.assert_array_equal(moved["out"]["bias"], 0)
  expected = np.float32(-0.1 * 0.5)
  np.testing.assert_allclose(moved["layers"]["mlp"]["kernel"], expected)
  np.testing.assert_allclose(moved["embed"]["embedding"], expected)


def test_gradients_are_clipped_by_their_global_norm():
  count = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
  huge, clipped = 100.0, 1.0 / np.sqrt(count)
  # An epsilon this large makes the step nearly proportional to the gradient.
  settings = {"weight_decay": 0.0, "eps": 1e3}
  free = updates(huge, clip_norm=None, **settings)["out"]["bias"]
  held = updates(huge, clip_norm=1.0, **settings)["out"]["bias"]
  same = updates(clipped, clip_norm=None, **settings)["out"]["bias"]
  np.testing.assert_allclose(held, same, rtol=1e-6)
  assert np.all(np.abs(free) > 10 * np.abs(held))


def test_small_gradients_are_left_alone():
  small = updates(1e-3, clip_norm=1.0, weight_decay=0.0)["out"]["bias"]
  free = updates(1e-3, clip_norm=None, weight_decay=0.0)["out"]["bias"]
  np.testing.assert_array_equal(small, free)


def test_the_schedule_warms_up_and_falls_to_its_fraction():
  schedule = optimizers.warmup_cosine(
    peak=0.4, steps=1000, warmup_steps=100, final_fraction=0.25
  )
  assert schedule(0) == 0
  assert schedule(50) == pytest.approx(0.2)
  assert schedule(100) == pytest.approx(0.4)
  assert schedule(1000) == pytest.approx(0.1)
  falling = [float(schedule(step)) for step in range(100, 1001, 50)]
  assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_the_warm_up_of_a_short_run_is_cut_to_half_of_it(steps):
  schedule = optimizers.warmup_cosine(peak=1.0, steps=steps, warmup_steps=100)
  rates = [float(schedule(step)) for step in range(steps + 1)]
  assert max(rates) == pytest.approx(1.0)
  assert rates.index(max(rates)) == max(1, steps // 2)


def test_the_decoder_has_no_other_undecayed_parameters():
  config = DecoderConfig(vocab_size=128, qk_norm=True, post_norms=True)
  boxed = state.abstract_state(Decoder(config), optimizers.adamw(lambda _: 0.1))
  params = partitioning.unbox(boxed.params)
  mask = optimizers._decayed(params)
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  decayed = jax.tree.leaves(mask)
  assert len(leaves) == len(decayed)
  for (path, leaf), is_decayed in zip(leaves, decayed, strict=True):
    # Matrices have two axes, and one more where layers are stacked.
    stacked = "layers" in jax.tree_util.keystr(path)
    assert is_decayed == (leaf.ndim - stacked > 1), path
