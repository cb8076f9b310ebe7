"""The decoder: three ways to run it, and shapes it refuses."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.models.decoder import Decoder, DecoderConfig
from tests.fixtures import model_toys

pytestmark = pytest.mark.heavy

SAME = 1e-5  # Float32, sums in another order.
BFLOAT16 = 0.15  # Of hidden states of size 1 after three layers.


def _random(*shape, seed=0):
  draw = np.random.default_rng(seed)
  return jnp.asarray(draw.integers(0, model_toys.VOCAB, shape), jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def _apply(decoder, params, tokens, positions, segments):
  return decoder.apply({"params": params}, tokens, positions, segments)


def _full(decoder, params, tokens):
  place = jnp.arange(len(tokens))[None]
  return _apply(decoder, params, tokens[None], place, jnp.ones_like(place))[0]


@pytest.mark.parametrize("family", model_toys.FAMILIES)
def test_shared_prefix_equals_the_full_forward(family):
  decoder, params = model_toys.decoder(**model_toys.FAMILIES[family])
  lengths, samples, steps = jnp.array([11, 4]), 3, 7
  prompts, continued = _random(2, 13), _random(2, samples, steps, seed=1)
  place = jnp.broadcast_to(jnp.arange(13), prompts.shape)
  inside = (place < lengths[:, None]).astype(jnp.int32)
  run = functools.partial(decoder.apply, {"params": params})
  prefill = jax.jit(functools.partial(run, method="prefill"))
  hidden, prefix = prefill(prompts, place, inside)
  cache = run(2, samples, steps, method="empty_samples")
  extend = jax.jit(functools.partial(run, method="extend"))
  found = []
  for step in range(steps):
    states, cache = extend(
      continued[:, :, step], jnp.int32(step), prefix, lengths, cache
    )
    found.append(np.asarray(states))
  for row, length in enumerate(lengths.tolist()):
    for sample in range(samples):
      whole = jnp.concatenate([prompts[row, :length], continued[row, sample]])
      # What comes after is not seen, and one shape compiles once.
      wanted = _full(decoder, params, jnp.pad(whole, (0, 20 - len(whole))))
      np.testing.assert_allclose(
        hidden[row, :length], wanted[:length], atol=SAME, rtol=SAME
      )
      np.testing.assert_allclose(
        [states[row, sample] for states in found],
        wanted[length : len(whole)],
        atol=SAME,
        rtol=SAME,
      )


def test_segments_of_a_row_do_not_see_each_other():
  decoder, params = model_toys.decoder(**model_toys.GEMMA)
  first, second = _random(9), _random(6, seed=1)
  tokens = jnp.concatenate([first, second, _random(5, seed=2)])[None]
  positions = jnp.array([[*range(9), *range(6), *[0] * 5]])
  segments = jnp.array([[1] * 9 + [2] * 6 + [0] * 5])
  found = _apply(decoder, params, tokens, positions, segments)[0]
  np.testing.assert_allclose(
    found[:9], _full(decoder, params, first), atol=SAME
  )
  np.testing.assert_allclose(
    found[9:15], _full(decoder, params, second), atol=SAME
  )
  assert np.isfinite(found).all()


@pytest.mark.parametrize(
  "changes",
  [
    {"remat": "full"},
    {"remat": "dots"},
    {"scan_unroll": 3},
    {"attention_blocks": 1},
  ],
)
def test_how_it_runs_does_not_change_what_it_computes(changes):
  decoder, _ = model_toys.decoder(**model_toys.GEMMA)
  found = _gradient(dataclasses.replace(decoder.config, **changes))
  wanted = _gradient(decoder.config)
  for left, right in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    scale = float(jnp.max(jnp.abs(right)))
    np.testing.assert_allclose(left, right, atol=SAME * scale)


@functools.cache
def _gradient(config):
  _, params = model_toys.decoder(**model_toys.GEMMA)
  tokens = _random(140)  # More than one block.

  def loss(params):
    return jnp.sum(_full(Decoder(config), params, tokens)[:, 0])

  return jax.jit(jax.grad(loss))(params)


def test_every_parameter_names_its_axes_and_layers_lead():
  for family in model_toys.FAMILIES.values():
    module = Decoder(model_toys.config(**family))
    blank = jnp.zeros((1, 2), jnp.int32)
    boxed = jax.eval_shape(module.init, jax.random.key(0), blank, blank, blank)[
      "params"
    ]
    is_box = lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)  # noqa: E731
    for path, leaf in jax.tree_util.tree_leaves_with_path(
      boxed, is_leaf=is_box
    ):
      assert is_box(leaf), path
      assert len(leaf.names) == leaf.value.ndim
      assert ("layers" in leaf.names) == ("layers" in str(path[0]))
      assert leaf.names.index("layers") == 0 if "layers" in leaf.names else True


def test_bfloat16_compute_keeps_float32_parameters_and_logits():
  decoder, params = model_toys.decoder(**model_toys.GEMMA)
  half = Decoder(dataclasses.replace(decoder.config, dtype="bfloat16"))
  tokens = _random(12)
  found = _full(half, params, tokens)
  assert found.dtype == jnp.bfloat16
  assert half.apply({"params": params}, found, method="logits").dtype == (
    jnp.float32
  )
  wanted = _full(decoder, params, tokens)
  assert float(jnp.max(jnp.abs(found - wanted))) < BFLOAT16


def test_dropout_needs_a_key_and_changes_the_output():
  decoder, params = model_toys.decoder(dropout=0.5)
  tokens, place = _random(1, 6), jnp.arange(6)[None]

  @jax.jit
  def run(seed):
    return decoder.apply(
      {"params": params},
      tokens,
      place,
      place * 0 + 1,
      deterministic=False,
      rngs={"dropout": jax.random.key(seed)},
    )

  assert not np.allclose(run(0), run(1))
  np.testing.assert_array_equal(run(0), run(0))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"heads": 4, "kv_heads": 3}, "DecoderConfig.heads = 4: .*kv_heads, 3"),
    ({"head_dim": 5}, "DecoderConfig.head_dim = 5"),
    ({"layers": 0}, "DecoderConfig.layers"),
    ({"activation": "relu"}, "DecoderConfig.activation = 'relu'"),
    ({"remat": "some"}, "DecoderConfig.remat = 'some'"),
    ({"dtype": "float23"}, "DecoderConfig.dtype = 'float23'"),
    ({"window": 0}, "DecoderConfig.window"),
  ],
)
def test_shapes_that_no_decoder_has(changes, message):
  with pytest.raises(ValueError, match=message):
    DecoderConfig(**changes)


def test_vocabulary_is_sized_by_the_cache():
  config = DecoderConfig()
  assert config.for_vocabulary(2001).vocab_size == 2048
  fixed = dataclasses.replace(config, vocab_size=2000)
  assert fixed.for_vocabulary(2000) == fixed
  with pytest.raises(ValueError, match=r"vocab_size = 2000"):
    fixed.for_vocabulary(2001)
