"""LoRA: the same start, the paper's product, kernels that hold it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from flax.core import meta

from calrec_jax.models import lora as loras
from calrec_jax.models.block import KeyValue
from calrec_jax.models.decoder import Decoder
from calrec_jax.models.layers import Projection
from calrec_jax.models.lora import Lora
from tests.fixtures import model_toys

pytestmark = pytest.mark.heavy

SAME = 1e-5  # Float32: two products or one.
LORA = Lora(rank=3, alpha=12.0)
GEMMA = {**model_toys.GEMMA, "lora": LORA}
PLAIN = Decoder(model_toys.config(**model_toys.GEMMA))


@functools.cache
def model(**changes):
  """A decoder whose B matrices are not zero any more."""
  decoder, params = model_toys.decoder(**GEMMA, **changes)
  draw = np.random.default_rng(1)
  flat = traverse_util.flatten_dict(params)
  for path, leaf in flat.items():
    if path[-1] == "lora_b":
      flat[path] = jnp.asarray(draw.normal(size=leaf.shape), jnp.float32)
  return decoder, traverse_util.unflatten_dict(flat)


def prompts():
  tokens = np.random.default_rng(2).integers(8, model_toys.VOCAB, (2, 12))
  tokens = jnp.asarray(tokens, jnp.int32)
  positions = jnp.broadcast_to(jnp.arange(12), tokens.shape)
  return tokens, positions, jnp.ones_like(tokens)


@functools.partial(jax.jit, static_argnums=0, static_argnames="method")
def apply(decoder, params, *arguments, method=None):
  return decoder.apply({"params": params}, *arguments, method=method)


def test_a_projection_is_the_product_of_the_paper():
  for num_inputs, name in ((1, "query"), (2, "out")):
    shape = (4, 3, 5) if num_inputs == 2 else (6, 2, 5)
    module = Projection(
      shape,
      ("kv", "kv", "kv"),
      jnp.float32,
      num_inputs=num_inputs,
      lora=LORA,
      name=name,
    )
    draw = np.random.default_rng(0)
    inputs, outputs = shape[:num_inputs], shape[num_inputs:]
    x = draw.normal(size=(7, *inputs))
    w, a, b = (
      draw.normal(size=size)
      for size in (shape, (*inputs, LORA.rank), (LORA.rank, *outputs))
    )
    params = {"kernel": w, "lora_a": a, "lora_b": b}
    found = apply(
      module,
      jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params),
      jnp.asarray(x, jnp.float32),
    )
    width = int(np.prod(inputs))
    flat = x.reshape(7, width)
    wanted = flat @ w.reshape(width, -1)
    low = flat @ a.reshape(width, -1) @ b.reshape(LORA.rank, -1)
    wanted += LORA.alpha / LORA.rank * low
    np.testing.assert_allclose(
      found,
      wanted.reshape(7, *outputs),
      rtol=0,
      atol=SAME * np.abs(wanted).max(),
    )


def test_the_start_is_the_plain_model_to_the_bit():
  tokens = prompts()
  decoder = Decoder(model_toys.config(**GEMMA))
  with_lora = meta.unbox(jax.jit(decoder.init)(jax.random.key(5), *tokens))[
    "params"
  ]
  assert not np.any(with_lora["layers"]["mlp"]["wo"]["lora_b"])
  a = with_lora["layers"]["mlp"]["wo"]["lora_a"]
  assert 0.9 / np.sqrt(32) < np.abs(a).max() <= 1 / np.sqrt(32)
  np.testing.assert_array_equal(
    apply(decoder, with_lora, *tokens),
    apply(PLAIN, loras.without_lora(with_lora), *tokens),
  )


@pytest.mark.parametrize("remat", ["none", "full"])
def test_merged_kernels_compute_the_same(remat):
  decoder, params = model(remat=remat)
  merged = jax.jit(lambda p: loras.merge_lora(p, decoder.config))(params)
  assert jax.tree.structure(merged) == jax.tree.structure(
    loras.without_lora(params)
  )
  found = apply(decoder, params, *prompts())
  base = apply(PLAIN, loras.without_lora(params), *prompts())
  assert np.abs(found - base).max() > 0.1  # The matrices matter.
  np.testing.assert_allclose(
    apply(PLAIN, merged, *prompts()), found, atol=10 * SAME
  )


def test_decoding_sees_the_matrices():
  decoder, params = model()
  merged = loras.merge_lora(params, decoder.config)
  tokens, positions, segments = prompts()
  lengths = jnp.array([12, 12])

  def decode(decoder, params):
    hidden, prefix = apply(
      decoder, params, tokens, positions, segments, method="prefill"
    )
    samples = decoder.empty_samples(2, 3, 4)
    new = jnp.array([[9, 10, 11], [12, 13, 14]])
    updated, samples = apply(
      decoder, params, new, jnp.array(0), prefix, lengths, samples,
      method="extend",
    )  # fmt: skip
    assert isinstance(samples, KeyValue)
    return hidden, updated

  for found, wanted in zip(
    decode(decoder, params), decode(PLAIN, merged), strict=True
  ):
    np.testing.assert_allclose(found, wanted, atol=10 * SAME)


def test_only_the_named_projections_have_matrices():
  config = model_toys.config(lora=Lora(rank=2, targets=["value", "query"]))
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  params = jax.eval_shape(
    Decoder(config).init, jax.random.key(0), tokens, tokens, tokens
  )["params"]
  flat = traverse_util.flatten_dict(params, sep="/")
  found = {
    path: (leaf.value.shape, leaf.names)
    for path, leaf in flat.items()
    if "lora" in path
  }
  assert found == {
    f"layers/attention/{name}/{leaf}": shape
    for name, axis in (("query", "heads"), ("value", "kv_heads"))
    for leaf, shape in {
      "lora_a": ((2, 16, 2), ("layers", "embed", "lora_rank")),
      "lora_b": ((2, 2, 4, 4), ("layers", "lora_rank", axis, "kv")),
    }.items()
  }


def test_a_tree_is_filled_with_fresh_matrices_alone():
  _, params = model()
  base = loras.without_lora(params)
  filled = loras.fill_missing(base, jax.tree.map(jnp.zeros_like, params))
  assert jax.tree.structure(filled) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, loras.without_lora(filled), base)
  del base["decoder_norm"]
  assert "decoder_norm" not in loras.fill_missing(base, params)


def test_matrices_of_unknown_scaling_are_not_merged():
  _, params = model()
  with pytest.raises(ValueError, match="its scaling"):
    loras.merge_lora(params, model_toys.config())


@pytest.mark.parametrize(
  "settings",
  [
    {"rank": 0},
    {"alpha": 0.0},
    {"targets": ()},
    {"targets": ("wi",)},
    {"targets": "wo"},
  ],
  ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings):
  with pytest.raises(ValueError, match=rf"Lora\.{next(iter(settings))}"):
    Lora(**settings)


def test_the_order_of_targets_says_nothing():
  assert Lora(targets=["wo", "key"]) == Lora(targets=("key", "wo"))
  assert hash(Lora(targets=["wo"])) == hash(Lora(targets=("wo",)))
