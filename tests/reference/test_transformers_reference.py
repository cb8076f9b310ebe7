"""Models of both families compute what Transformers computes.

The logits are saved in files (`transformers_goldens`); where PyTorch and
Transformers are installed, they are computed anew as well.
"""

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.models.decoder import Decoder
from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.models.pretrained import export, loading, sources
from tests.fixtures import transformers_logits
from tests.reference import transformers_goldens

# Float32 sums in another order, over logits of a standard deviation of 1.9.
# Found: 1e-5.
LOGITS_TOLERANCE = 2e-4
# The same library on another machine.
LIVE_TOLERANCE = 2e-5
FAMILIES = sorted(transformers_goldens.CONFIGS)
# What a loader could get wrong without any shape being another one.
SLIPS = {
  "gemma3": {
    "window": 7,
    "global_every": 6,
    "rope_theta": 10_000.0,
    "rope_theta_local": 1_000_000.0,
    "rope_scaling": None,
    "attention_scale": None,
    "embed_scale": False,
    "activation": "silu",
    "norm_eps": 1e-6,
  },
  "llama3": {"rope_scaling": None, "rope_theta": 100_000.0},
  "smollm2": {"rope_theta": 10_000.0, "activation": "gelu_tanh"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """By family: folder, configuration and parameters."""
  found = {}
  for name in FAMILIES:
    folder = tmp_path_factory.mktemp("models") / name
    transformers_goldens.write_folder(folder, name)
    source = sources.open_source(folder)
    config = DecoderConfig(
      **source.decoder_fields(), dtype="float32", vocab_size=source.num_tokens
    )
    found[name] = folder, config, loading.load_params(source, config)
  return found


def _logits(config, params, tokens):
  """float32[R, L, V]; every row is one segment."""
  decoder = Decoder(config)
  tokens = jnp.asarray(tokens)
  places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)

  @jax.jit
  def compute(params):
    variables = {"params": params}
    ones = jnp.ones_like(places)
    hidden = decoder.apply(variables, tokens, places, ones)
    return decoder.apply(variables, hidden, method="logits")

  return np.asarray(compute(params))


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(models, name):
  _, config, params = models[name]
  tokens, expected = transformers_goldens.golden(name)
  found = _logits(config, params, tokens)
  assert np.abs(found - expected).max() < LOGITS_TOLERANCE
  np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize(
  ("name", "field"), [(name, field) for name in SLIPS for field in SLIPS[name]]
)
def test_a_slip_would_show(models, name, field):
  _, config, params = models[name]
  tokens, expected = transformers_goldens.golden(name)
  slipped = dataclasses.replace(config, **{field: SLIPS[name][field]})
  found = _logits(slipped, params, tokens)
  assert np.abs(found - expected).max() > 50 * LOGITS_TOLERANCE


@pytest.mark.skipif(
  not transformers_logits.importable(),
  reason=f"needs PyTorch and Transformers: {transformers_logits.INSTALL}",
)
def test_the_files_are_what_transformers_says(models, tmp_path):
  """Of the folders, and of what is exported from the loaded parameters."""
  requests, wanted = [], []
  for name, (folder, config, params) in models.items():
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    exported = export.write_folder(
      tmp_path / name,
      config,
      lambda path, flat=flat: np.asarray(flat[path]),
      special={"bos": 2, "eos": 1, "pad": 0},
      file_bytes=20_000,
    )
    tokens, expected = transformers_goldens.golden(name)
    np.testing.assert_array_equal(tokens, transformers_goldens.tokens(name))
    requests += [(folder, tokens), (exported, tokens)]
    wanted += [expected, expected]
  answers = transformers_logits.logits(requests, tmp_path / "torch")
  for (folder, _), found, expected in zip(
    requests, answers, wanted, strict=True
  ):
    assert np.abs(found - expected).max() < LIVE_TOLERANCE, folder
