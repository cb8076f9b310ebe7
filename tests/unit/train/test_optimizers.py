"""Decay, clipping and the schedule, on arrays one can check by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.models.decoder import Decoder, DecoderConfig
from calrec_jax.runtime import partitioning
from calrec_jax.train import optimizers, state

pytestmark = pytest.mark.heavy

PARAMS = {
  "layers": {"norm": {"scale": np.ones(3)}, "mlp": {"kernel": np.ones((3, 2))}},
  "embed": {"embedding": np.ones((4, 3))},
  "out": {"bias": np.ones(2)},
}


def updates(gradient, optimizer=optimizers.adamw, **settings):
  optimizer = optimizer(optimizers.constant(0.1), **settings)
  params = jax.tree.map(jnp.asarray, PARAMS)
  gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), params)
  state = jax.jit(optimizer.init)(params)
  result, _ = jax.jit(optimizer.update)(gradients, state, params)
  return result


@pytest.mark.parametrize("optimizer", [optimizers.adamw, optimizers.adafactor])
def test_norm_scales_and_biases_are_not_decayed(optimizer):
  # Without a gradient, decay alone moves a parameter.
  moved = updates(0.0, optimizer, weight_decay=0.5)
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
  descending = [float(schedule(step)) for step in range(100, 1001, 50)]
  assert descending == sorted(descending, reverse=True)


def test_a_straight_line_down_to_its_fraction():
  schedule = optimizers.warmup_linear(
    peak=0.5, steps=12, warmup_steps=4, final_fraction=0.2
  )
  wanted = [0, 0.125, 0.25, 0.375, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15]
  wanted += [0.1, 0.1, 0.1]  # It stays there.
  np.testing.assert_allclose([schedule(s) for s in range(15)], wanted, 1e-6)


def test_the_root_of_the_step_is_t5xs():
  steps = np.arange(40)
  # `constant * rsqrt_decay` of t5x with a base rate of 0.8.
  wanted = 0.8 / np.sqrt(np.maximum(steps, 9))
  flat = optimizers.rsqrt(peak=0.8 / 3, warmup_steps=9)
  np.testing.assert_allclose([flat(s) for s in steps], wanted, 1e-6)
  # `constant * linear_warmup * rsqrt_decay`.
  ascending = optimizers.rsqrt(peak=0.8 / 3, warmup_steps=9, linear_warmup=True)
  wanted *= np.minimum(1, steps / 9)
  np.testing.assert_allclose([ascending(s) for s in steps], wanted, 1e-6)
  with pytest.raises(ValueError, match=r"rsqrt\.warmup_steps = 0"):
    optimizers.rsqrt(peak=1.0, warmup_steps=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize(
  "shape", [optimizers.warmup_cosine, optimizers.warmup_linear]
)
def test_the_warm_up_of_a_short_run_is_cut_to_half_of_it(shape, steps):
  schedule = shape(peak=1.0, steps=steps, warmup_steps=100)
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


def test_means_of_rows_and_columns_have_the_axes_that_are_left():
  config = DecoderConfig(vocab_size=256, width=128, mlp_width=256)
  optimizer = optimizers.adafactor(optimizers.constant(0.1))
  boxed = state.abstract_state(Decoder(config), optimizer)
  moments = _factored(boxed.opt_state)

  def axes(tree):
    return getattr(tree["layers"]["mlp"]["wo"]["kernel"], "names", ())

  # [layers, mlp, embed], of which embed is shorter.
  assert axes(moments.v_row) == ("layers", "embed")
  assert axes(moments.v_col) == ("layers", "mlp")
  assert axes(moments.v) == ()  # A single number, not used.
  scale = moments.v["layers"]["pre_mlp_norm"]["scale"]
  assert scale.names == ("layers", "norm")
  assert scale.value.shape == (3, 128)
  for leaf in jax.tree.leaves(boxed.opt_state, is_leaf=_is_box):
    assert not _is_box(leaf) or len(leaf.names) == leaf.value.ndim


def test_of_equal_axes_the_last_one_is_not_rows():
  boxed = {
    "kernel": nn.LogicallyPartitioned(
      jnp.ones((2, 8, 8)), ("layers", "embed", "mlp")
    )
  }
  optimizer = optimizers.adafactor(
    optimizers.constant(0.1), min_factored_size=8, clip_norm=None
  )
  fitted = state.fit_axes(optimizer.init(boxed), boxed)
  moments = _factored(fitted)
  assert moments.v_row["kernel"].names == ("layers", "embed")
  assert moments.v_col["kernel"].names == ("layers", "mlp")
  # So that they are what Optax computes.
  gradient = jnp.tile(jnp.arange(8.0)[:, None], (2, 1, 8))
  boxed = {"kernel": boxed["kernel"].replace(value=gradient)}
  _, stepped = optimizer.update(boxed, optimizer.init(boxed), boxed)
  rows = nn.meta.unbox(_factored(stepped).v_row["kernel"])
  np.testing.assert_allclose(rows[0], np.arange(8.0) ** 2, atol=1e-6)


def _factored(opt_state):
  """Adafactor's moments, wherever optax keeps them."""
  is_factored = lambda part: hasattr(part, "v_row")  # noqa: E731
  parts = jax.tree.leaves(opt_state, is_leaf=is_factored)
  [found] = filter(is_factored, parts)
  return found


def _is_box(leaf):
  return isinstance(leaf, nn.LogicallyPartitioned)
