"""The files of gin/models are the published models.

The numbers of parameters were derived without this project: each model was
built by Transformers 4.57.6 on the meta device from its published config.json
(`AutoModelForCausalLM.from_config`; for Gemma 3 from 4B up its text part), and
`numel` summed over `parameters()`, which counts a tied embedding once.
"""

import math
import pathlib

import gin
import jax
import pytest

from calrec_jax import config
from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.models.pretrained import huggingface, loading

FOLDER = pathlib.Path(__file__).parents[3] / "gin" / "models"
FROM_SCRATCH = {"debug", "micro", "tiny"}
# Of item ids, not of text.
ITEM_MODELS = {"sasrec"}
# Rows of the published vocabulary, and parameters with it.
PUBLISHED = {
  "gemma3_270m": (262_144, 268_098_176),
  "gemma3_1b": (262_144, 999_885_952),
  "gemma3_4b": (262_208, 3_880_263_168),
  "gemma3_12b": (262_208, 11_766_034_176),
  "gemma3_27b": (262_208, 27_009_346_304),
  "smollm2_135m": (49_152, 134_515_008),
  "smollm2_360m": (49_152, 361_821_120),
  "smollm2_1_7b": (49_152, 1_711_376_384),
  "llama3_2_1b": (128_256, 1_235_814_400),
  "llama3_2_3b": (128_256, 3_212_749_824),
  "llama3_1_8b": (128_256, 8_030_261_248),
  "llama3_1_70b": (128_256, 70_553_706_496),
}
# What no count shows, as config.json has it: theta of global and of local
# layers, factor of the stretching, window, and the features that the dot
# products are scaled by.
ROTATIONS = {
  "gemma3_270m": (1e6, 1e4, None, 512, 256),
  "gemma3_1b": (1e6, 1e4, None, 512, 256),
  "gemma3_4b": (1e6, 1e4, 8, 1024, 256),
  "gemma3_12b": (1e6, 1e4, 8, 1024, 256),
  "gemma3_27b": (1e6, 1e4, 8, 1024, 168),
  "smollm2_135m": (1e5, None, None, None, 64),
  "smollm2_360m": (1e5, None, None, None, 64),
  "smollm2_1_7b": (1.3e5, None, None, None, 64),
  "llama3_2_1b": (5e5, None, 32, None, 64),
  "llama3_2_3b": (5e5, None, 32, None, 128),
  "llama3_1_8b": (5e5, None, 8, None, 128),
  "llama3_1_70b": (5e5, None, 8, None, 128),
}


@pytest.fixture(autouse=True)
def _clean_gin():
  yield
  gin.clear_config()


def _config(name):
  config.Configuration(files=(f"models/{name}.gin",)).apply()
  return DecoderConfig()


def test_every_file_is_checked():
  names = {path.stem for path in FOLDER.glob("*.gin")}
  assert names == PUBLISHED.keys() | FROM_SCRATCH | ITEM_MODELS
  assert ROTATIONS.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_parameters_are_as_many_as_published(name):
  rows, count = PUBLISHED[name]
  decoder = _config(name)
  # A vocabulary may be pruned, so the file leaves its size open.
  assert decoder.vocab_size is None
  params = loading.abstract_params(decoder.for_vocabulary(rows, exact=True))
  sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(params)]
  assert sum(sizes) == count
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"float32"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_positions_are_turned_as_published(name):
  decoder = _config(name)
  scaling = decoder.rope_scaling
  scale = decoder.attention_scale or decoder.head_dim**-0.5
  assert (
    decoder.rope_theta,
    decoder.rope_theta_local,
    scaling and scaling.factor,
    decoder.window,
    pytest.approx(scale**-2),
  ) == ROTATIONS[name]
  if scaling is not None:
    assert scaling.kind == ("linear" if decoder.window else "llama3")


@pytest.mark.parametrize("name", PUBLISHED)
def test_hugging_face_has_a_name_for_all_of_it(name):
  decoder = _config(name)
  special = {"bos": 2, "eos": 1, "pad": 0}
  written = huggingface.config_json(decoder, tokens=100, special=special)
  for field, value in huggingface.decoder_fields(written).items():
    assert getattr(decoder, field) == pytest.approx(value), field
