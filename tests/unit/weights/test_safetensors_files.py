"""Safetensors: rows, dtypes, and incomplete folders."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from calrec_jax.weights.packages import WeightsError
from calrec_jax.weights.safetensors_files import SafetensorsFiles


@pytest.mark.parametrize(
  "dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]
)
def test_rows_are_read_as_float32(tmp_path, dtype):
  values = np.arange(12).reshape(4, 3).astype(dtype)
  save_file({"a": values}, tmp_path / "model.safetensors")
  files = SafetensorsFiles(tmp_path)
  assert files.shapes == {"a": (4, 3)}
  part = files.read("a", 1, 3)
  assert part.dtype == np.float32
  np.testing.assert_array_equal(part, values[1:3].astype(np.float32))


def test_integers_are_refused(tmp_path):
  save_file({"a": np.ones(3, np.int8)}, tmp_path / "model.safetensors")
  with pytest.raises(WeightsError, match="I8"):
    SafetensorsFiles(tmp_path).read("a")


def test_an_incomplete_folder_is_refused(tmp_path):
  save_file({"a": np.ones(3, np.float32)}, tmp_path / "one.safetensors")
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
  assert SafetensorsFiles(tmp_path).shapes == {"a": (3,)}
  for weight_map, word in (
    ({"a": "one.safetensors", "b": "two.safetensors"}, "two.safetensors"),
    ({"a": "one.safetensors", "b": "one.safetensors"}, "b"),
    ({"a": "../one.safetensors"}, "outside"),
  ):
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WeightsError, match=word):
      SafetensorsFiles(tmp_path)
  index.write_text("{")
  with pytest.raises(WeightsError, match="damaged"):
    SafetensorsFiles(tmp_path)


def test_a_truncated_file_is_refused(tmp_path):
  path = tmp_path / "model.safetensors"
  save_file({"a": np.ones(100, np.float32)}, path)
  path.write_bytes(path.read_bytes()[:-10])
  with pytest.raises(WeightsError, match="truncated"):
    SafetensorsFiles(tmp_path)


def test_pickles_are_refused(tmp_path):
  (tmp_path / "pytorch_model.bin").write_bytes(b"")
  with pytest.raises(WeightsError, match="pickle files"):
    SafetensorsFiles(tmp_path)
  (tmp_path / "pytorch_model.bin").unlink()
  with pytest.raises(WeightsError, match="no"):
    SafetensorsFiles(tmp_path)
