"""What is written can be read by others, and is never half there."""

import dataclasses
import json

import numpy as np
import pytest

from calrec_jax.models.pretrained import export, loading, sources
from calrec_jax.weights.packages import WeightsError
from calrec_jax.weights.safetensors_files import SafetensorsFiles
from tests.fixtures import pretrained_toys

pytestmark = pytest.mark.heavy


def test_a_large_model_comes_in_several_files(tmp_path):
  folder = tmp_path / "model"
  pretrained_toys.huggingface(folder, "gemma", file_bytes=2000)
  files = sorted(file.name for file in folder.glob("*.safetensors"))
  assert len(files) > 3
  assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
  index = json.loads((folder / "model.safetensors.index.json").read_text())
  stored = SafetensorsFiles(folder)
  assert index["weight_map"].keys() == stored.shapes.keys()
  sizes = sum(4 * np.prod(shape) for shape in stored.shapes.values())
  assert index["metadata"]["total_size"] == sizes


def test_a_pruned_vocabulary_gets_its_rows_back(tmp_path):
  config, params = pretrained_toys.huggingface(tmp_path / "base", "llama")
  base = sources.open_source(tmp_path / "base")
  row_map = np.array([0, 1, 7, 30], np.int32)
  small = dataclasses.replace(config, vocab_size=len(row_map))
  trained = dict(params)
  trained["token_embedder/embedding"] = (
    params["token_embedder/embedding"][row_map] + 1
  )
  trained["logits_dense/kernel"] = params["logits_dense/kernel"][:, row_map] - 1
  folder = export.write_folder(
    tmp_path / "out", small, trained.__getitem__, row_map=row_map, base=base
  )
  tensors = SafetensorsFiles(folder)
  expected = params["token_embedder/embedding"].copy()
  expected[row_map] += 1
  np.testing.assert_array_equal(
    tensors.read("model.embed_tokens.weight"), expected
  )
  expected = params["logits_dense/kernel"].T.copy()
  expected[row_map] -= 1
  np.testing.assert_array_equal(tensors.read("lm_head.weight"), expected)
  assert json.loads((folder / "config.json").read_text())["vocab_size"] == 48
  with pytest.raises(WeightsError, match="--base"):
    export.write_folder(
      tmp_path / "other", small, trained.__getitem__, row_map=row_map
    )


def test_bfloat16_halves_the_bytes(tmp_path):
  config, params = pretrained_toys.huggingface(
    tmp_path / "model", "llama", dtype="bfloat16"
  )
  source = sources.open_source(tmp_path / "model")
  loaded = loading.load_params(source, config)
  kernel = loaded["layers"]["mlp"]["wo"]["kernel"]
  np.testing.assert_allclose(kernel, params["layers/mlp/wo/kernel"], rtol=2**-8)
  assert not np.array_equal(kernel, params["layers/mlp/wo/kernel"])


def test_a_failed_export_leaves_nothing(tmp_path):
  config, params = pretrained_toys.model("llama")
  del params["decoder_norm/scale"]
  with pytest.raises(KeyError):
    export.write_folder(tmp_path / "model", config, params.__getitem__)
  assert list(tmp_path.iterdir()) == []
  (tmp_path / "model").mkdir()
  with pytest.raises(WeightsError, match="exists"):
    export.write_folder(tmp_path / "model", config, params.__getitem__)


def test_shapes_without_a_name_are_refused(tmp_path):
  config, params = pretrained_toys.model("llama")
  capped = dataclasses.replace(config, logit_softcap=3.0)
  with pytest.raises(WeightsError, match="neither"):
    export.write_folder(tmp_path / "model", capped, params.__getitem__)
