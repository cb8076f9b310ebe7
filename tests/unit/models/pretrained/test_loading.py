"""Published models become the decoder's parameters, wherever they live."""

import dataclasses
import json

import flax.traverse_util
import jax
import numpy as np
import pytest

from calrec_jax.models.decoder import Decoder
from calrec_jax.models.pretrained import loading, sources
from calrec_jax.runtime import partitioning
from calrec_jax.weights.packages import WeightsError
from tests.fixtures import pretrained_toys

pytestmark = pytest.mark.heavy

FAMILIES = sorted(pretrained_toys.FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["huggingface", "several files", "gguf"])
def test_every_form_gives_the_parameters(tmp_path, family, form):
  config, params, source = _written(tmp_path, family, form)
  loaded = _flat(loading.load_params(source, config))
  assert loaded.keys() == params.keys()
  for path, value in params.items():
    # A Gemma folder stores norms less one: their last bits are rounded.
    tolerance = 1e-6 if "norm" in path else 0
    np.testing.assert_allclose(loaded[path], value, rtol=tolerance, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["huggingface", "gguf"])
def test_the_file_tells_the_shape(tmp_path, family, form):
  config, _, source = _written(tmp_path, family, form)
  read = type(config)(
    **source.decoder_fields(), vocab_size=source.num_tokens, dtype="float32"
  )
  loading.check_shape(source, config)
  for field in ("width", "layers", "heads", "kv_heads", "head_dim", "window"):
    assert getattr(read, field) == getattr(config, field)
  assert read.rope_scaling == config.rope_scaling
  assert read.tied_embeddings == config.tied_embeddings
  assert read.norm_eps == config.norm_eps


@pytest.mark.parametrize("axes", [(1, 8, 1), (1, 2, 2), (2, 4, 1)])
def test_every_device_gets_its_part(tmp_path, axes):
  config, params, source = _written(tmp_path, "llama", "huggingface")
  data, fsdp, tensor = axes
  mesh = partitioning.make_mesh(
    partitioning.MeshShape(data=data, fsdp=fsdp, tensor=tensor),
    jax.devices()[: data * fsdp * tensor],
  )
  tokens = np.zeros((1, 1), np.int32)
  boxed = jax.eval_shape(
    Decoder(config).init, jax.random.key(0), tokens, tokens, tokens + 1
  )["params"]
  shardings = partitioning.state_shardings(
    boxed, mesh, partitioning.logical_axis_rules()
  )
  loaded = _flat(loading.load_params(source, config, shardings))
  wanted = _flat(shardings)
  for path, value in params.items():
    np.testing.assert_array_equal(loaded[path], value)
    assert loaded[path].sharding == wanted[path]


def test_a_pruned_vocabulary_reads_its_rows(tmp_path):
  config, params, source = _written(tmp_path, "llama", "huggingface")
  row_map = np.array([0, 1, 2, 5, 40, 47], np.int32)
  smaller = dataclasses.replace(config, vocab_size=len(row_map))
  loaded = _flat(loading.load_params(source, smaller, row_map=row_map))
  np.testing.assert_array_equal(
    loaded["token_embedder/embedding"],
    params["token_embedder/embedding"][row_map],
  )
  np.testing.assert_array_equal(
    loaded["logits_dense/kernel"], params["logits_dense/kernel"][:, row_map]
  )
  with pytest.raises(WeightsError, match="not this model"):
    loading.load_params(source, smaller, row_map=row_map + 10)


def test_another_shape_is_refused_by_name(tmp_path):
  config, _, source = _written(tmp_path, "gemma", "huggingface")
  other = dataclasses.replace(config, window=7, rope_theta=5.0)
  with pytest.raises(WeightsError) as refusal:
    loading.load_params(source, other)
  assert "DecoderConfig.window is 7, the model has 5" in str(refusal.value)
  assert "DecoderConfig.rope_theta is 5.0" in str(refusal.value)
  # How it is run is the user's business.
  loading.check_shape(
    source, dataclasses.replace(config, remat="full", dropout=0.1)
  )


def test_missing_and_unexpected_tensors_are_named(tmp_path):
  config, _, source = _written(tmp_path, "llama", "huggingface")
  source.shapes["model.layers.0.self_attn.q_proj.bias"] = (16,)
  del source.shapes["model.norm.weight"]
  with pytest.raises(WeightsError) as refusal:
    loading.load_params(source, config)
  assert "missing model.norm.weight" in str(refusal.value)
  assert "unexpected model.layers.0.self_attn.q_proj.bias" in str(refusal.value)


def test_the_text_decoder_of_a_model_with_images(tmp_path):
  import safetensors.numpy

  config, params = pretrained_toys.huggingface(tmp_path / "text", "gemma")
  text = json.loads((tmp_path / "text" / "config.json").read_text())
  tensors = safetensors.numpy.load_file(tmp_path / "text" / "model.safetensors")
  folder = tmp_path / "images"
  folder.mkdir()
  (folder / "config.json").write_text(
    json.dumps({"model_type": "gemma3", "text_config": text})
  )
  safetensors.numpy.save_file(
    {f"language_model.{name}": value for name, value in tensors.items()}
    | {"vision_tower.patch.weight": np.ones(3, np.float32)},
    folder / "model.safetensors",
  )
  source = sources.open_source(folder)
  assert source.ignored == ["vision_tower.patch.weight"]
  loaded = _flat(loading.load_params(source, config))
  np.testing.assert_array_equal(
    loaded["layers/mlp/wo/kernel"], params["layers/mlp/wo/kernel"]
  )


@pytest.mark.parametrize(
  ("name", "content", "remedy"),
  [
    ("pytorch_model.bin", b"", "Pickle files"),
    ("flax_model.msgpack", b"", "save_pretrained"),
    ("checkpoint", b"", "t5x"),
    ("model.ckpt-100.index", b"", "TensorFlow"),
  ],
)
def test_other_formats_are_refused_with_the_way_out(
  tmp_path, name, content, remedy
):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(WeightsError, match=remedy):
    sources.open_source(tmp_path)


def test_other_models_are_refused(tmp_path):
  pretrained_toys.huggingface(tmp_path / "model", "llama")
  path = tmp_path / "model" / "config.json"
  text = json.loads(path.read_text())
  for change, word in (
    ({"model_type": "mamba"}, "mamba"),
    ({"attention_bias": True}, "attention_bias"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "yarn"),
    ({"hidden_act": "relu"}, "relu"),
  ):
    path.write_text(json.dumps(text | change))
    with pytest.raises(WeightsError, match=word):
      sources.open_source(tmp_path / "model").decoder_fields()


def _written(tmp_path, family, form):
  if form == "gguf":
    path = tmp_path / "model.gguf"
    config, params = pretrained_toys.write_gguf(path, family)
  else:
    path = tmp_path / "model"
    options = {"file_bytes": 4000} if form == "several files" else {}
    config, params = pretrained_toys.huggingface(path, family, **options)
  return config, params, sources.open_source(path)


def _flat(tree):
  return flax.traverse_util.flatten_dict(tree, sep="/")
