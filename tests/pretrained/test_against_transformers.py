"""The packaged models compute what Transformers computes from the same file.

Transformers reads the GGUF files by itself. The text was written for this
test, so no model has seen it; its tokens are saved beside it, and the first
token of Gemma's is the begin token. They are more than the 512 that Gemma's
local layers see.
"""

import dataclasses
import pathlib
import tempfile

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax import config
from calrec_jax.data.vocabulary import files, pretrained
from calrec_jax.models.decoder import Decoder
from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.models.pretrained import loading, sources
from calrec_jax.weights import packages
from tests.fixtures import transformers_logits

pytestmark = pytest.mark.pretrained

FOLDER = pathlib.Path(__file__).parent
# Float32 sums in another order, over 18 and 30 layers; logits have a standard
# deviation of about 6. Found: 1.7e-4 and 1.2e-4.
LOGITS_TOLERANCE = 2e-4
# Positions whose logits are held at once: Gemma has 262,144 a position.
CHUNK = 64
# By packaged model: its file of gin/models.
FILES = {
  "gemma3-270m": "gemma3_270m",
  "smollm2-135m-instruct": "smollm2_135m",
}


@pytest.fixture(autouse=True)
def _clean_gin():
  yield
  gin.clear_config()


def _source(name):
  try:
    return sources.open_source(name)
  except packages.WeightsError as error:
    pytest.skip(f"{error} Or: launch/test.sh --pretrained")


def _tokens(name):
  text = (FOLDER / f"{name}.txt").read_text("utf-8")
  return np.array(text.split(), np.int32)


@pytest.mark.parametrize("name", FILES)
def test_the_model_file_fits(name):
  source = _source(name)
  config.Configuration(files=(f"models/{FILES[name]}.gin",)).apply()
  decoder = DecoderConfig().for_vocabulary(source.num_tokens, exact=True)
  loading.refuse_other_shape(source, decoder)


@pytest.mark.parametrize("name", FILES)
def test_the_tokens_are_those_of_the_text(name):
  _source(name)
  full = pretrained.read(name)
  model = files.open_model(full.kind, full.content)
  found = model.encode((FOLDER / "prose.txt").read_text("utf-8").strip())
  if full.adds_begin:
    found = [full.begin, *found]
  assert found == _tokens(name).tolist()


@pytest.mark.parametrize("name", FILES)
def test_logits_are_those_of_transformers(name):
  source = _source(name)
  if not transformers_logits.importable():
    pytest.skip(
      f"needs PyTorch and Transformers: {transformers_logits.INSTALL}"
    )
  tokens = _tokens(name)
  shape = DecoderConfig(
    **source.decoder_fields(), dtype="float32", vocab_size=source.num_tokens
  )
  if shape.window is not None:
    assert len(tokens) > shape.window + 200
  params = loading.load_params(source, shape)
  hidden = _hidden(shape, params, tokens)
  with tempfile.TemporaryDirectory() as scratch:
    [expected] = transformers_logits.logits(
      [(source.path, tokens[None])], pathlib.Path(scratch, "torch")
    )
    worst, best = _compare(shape, params, hidden, expected[0])
    assert worst < LOGITS_TOLERANCE
    assert best == len(tokens)
    if shape.window is not None:
      # Else the window would not have been tested.
      wider = dataclasses.replace(shape, window=2048)
      hidden = _hidden(wider, params, tokens)[-CHUNK:]
      worst, _ = _compare(shape, params, hidden, expected[0, -CHUNK:])
      assert worst > 1000 * LOGITS_TOLERANCE


def _hidden(shape, params, tokens):
  """float32[L, D] of one segment."""
  places = jnp.arange(len(tokens))[None]
  compute = jax.jit(
    lambda params: Decoder(shape).apply(
      {"params": params}, jnp.asarray(tokens)[None], places, places * 0 + 1
    )
  )
  return compute(params)[0]


def _compare(shape, params, hidden, expected):
  """Largest difference of the logits, and positions with the same best."""
  compute = jax.jit(
    lambda params, hidden: Decoder(shape).apply(
      {"params": params}, hidden, method="logits"
    )
  )
  worst, best = 0.0, 0
  for start in range(0, len(hidden), CHUNK):
    part = slice(start, start + CHUNK)
    found = np.asarray(compute(params, hidden[part]))
    worst = max(worst, float(np.abs(found - expected[part]).max()))
    best += int((found.argmax(-1) == expected[part].argmax(-1)).sum())
  return worst, best
