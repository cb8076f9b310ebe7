"""The decoder against plain NumPy in float64, in its three ways of running."""

import jax
import jax.numpy as jnp
import model_toys
import numpy as np
import numpy_decoder
import pytest

from calrec_jax.models.rope import RopeScaling

# Float32 through two layers; values are of the order of 1.
TOLERANCE = 1e-5

SHAPES = {
  "llama": {
    **model_toys.LLAMA,
    "rope_scaling": RopeScaling(
      kind="llama3", factor=8.0, original_length=64, high_frequency_factor=8.0
    ),
  },
  "gemma": {
    **model_toys.GEMMA,
    "layers": 3,
    "rope_scaling": RopeScaling(kind="linear", factor=8.0),
    "attention_scale": 0.3,
    "attention_softcap": 2.0,
    "logit_softcap": 3.0,
  },
}
# One is longer than a block of attention, so that rows take several.
LENGTHS = (9, 70, 1, 30)
ROW = 128


def segments(seed=0):
  numbers = np.random.default_rng(seed)
  return [
    numbers.integers(1, model_toys.VOCABULARY, length) for length in LENGTHS
  ]


def packed(parts):
  tokens, positions, ids = np.zeros((3, 1, ROW), np.int32)
  at = 0
  for number, part in enumerate(parts, 1):
    where = slice(at, at + len(part))
    tokens[0, where] = part
    positions[0, where] = np.arange(len(part))
    ids[0, where] = number
    at += len(part)
  return jnp.asarray(tokens), jnp.asarray(positions), jnp.asarray(ids)


@pytest.mark.parametrize("name", SHAPES)
def test_packed_rows_equal_numpy(name):
  module, params = model_toys.decoder(**SHAPES[name])
  parts = segments()

  @jax.jit
  def run(tokens, positions, ids):
    hidden = module.apply({"params": params}, tokens, positions, ids)
    return hidden, module.apply({"params": params}, hidden, method="logits")

  hidden, logits = run(*packed(parts))
  assert logits.dtype == jnp.float32
  at = 0
  for part in parts:
    where = slice(at, at + len(part))
    wanted = numpy_decoder.hidden_states(module.config, params, part)
    np.testing.assert_allclose(
      hidden[0, where], wanted, atol=TOLERANCE * np.abs(wanted).max()
    )
    wanted = numpy_decoder.logits(module.config, params, wanted)
    np.testing.assert_allclose(
      logits[0, where], wanted, atol=TOLERANCE * np.abs(wanted).max()
    )
    at += len(part)


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_continuations_equal_numpy(name):
  """Padded prompts, several continuations each, windows that slide."""
  module, params = model_toys.decoder(**SHAPES[name])
  numbers = np.random.default_rng(1)
  lengths, samples, steps = np.array([3, 12, 7]), 2, 9
  shape = (len(lengths), 14)
  prompts = numbers.integers(1, model_toys.VOCABULARY, shape)
  # What stands in the padding must not matter.
  tails = numbers.integers(
    1, model_toys.VOCABULARY, (len(lengths), samples, steps)
  )
  at = np.broadcast_to(np.arange(shape[1]), shape)
  apply = jax.jit(
    lambda *given, method: module.apply(
      {"params": params}, *given, method=method
    ),
    static_argnames="method",
  )
  inside = (at < lengths[:, None]).astype(np.int32)
  hidden, prefix = apply(prompts, at, inside, method="prefill")
  cache = module.apply(
    {"params": params}, len(lengths), samples, steps, method="empty_samples"
  )
  found = []
  for step in range(steps):
    new, cache = apply(
      tails[:, :, step],
      jnp.int32(step),
      prefix,
      lengths,
      cache,
      method="extend",
    )
    found.append(new)
  found = np.stack(found, axis=2)  # [B, G, T, D]
  for row, length in enumerate(lengths):
    for sample in range(samples):
      whole = np.concatenate([prompts[row, :length], tails[row, sample]])
      wanted = numpy_decoder.hidden_states(module.config, params, whole)
      tolerance = TOLERANCE * np.abs(wanted).max()
      np.testing.assert_allclose(
        hidden[row, :length], wanted[:length], atol=tolerance
      )
      np.testing.assert_allclose(
        found[row, sample], wanted[length:], atol=tolerance
      )


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_recomputing_and_unrolling_change_nothing(remat):
  parts = packed(segments())

  def gradient(**changes):
    module, params = model_toys.decoder(**model_toys.GEMMA, **changes)

    def total(params):
      hidden = module.apply({"params": params}, *parts)
      return jnp.sum(hidden[:, ::7] ** 2 * jnp.arange(16))

    return jax.jit(jax.grad(total))(params)

  wanted = gradient()
  found = gradient(remat=remat, scan_unroll=2)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, atol=TOLERANCE * np.abs(b).max()
    ),
    found,
    wanted,
  )
