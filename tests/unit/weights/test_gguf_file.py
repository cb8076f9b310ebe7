"""GGUF files, compared with gguf's own reader; truncated and damaged ones."""

import gguf
import numpy as np
import pytest

from calrec_jax.weights.gguf_file import GgufFile
from calrec_jax.weights.packages import WeightsError

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "Q5_1", "Q4_1")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  path = tmp_path_factory.mktemp("gguf") / "model.gguf"
  writer = gguf.GGUFWriter(path, "llama")
  writer.add_string("note", "naïve ☕")
  writer.add_array("pieces", ["a", "", "ĠĠ", "☕"])
  writer.add_array("scores", [0.5, -1.0])
  writer.add_bool("flag", True)
  rng = np.random.default_rng(0)
  for kind in KINDS:
    values = rng.normal(size=(6, 64)).astype(np.float32)
    quantised = getattr(gguf.GGMLQuantizationType, kind)
    writer.add_tensor(
      kind, gguf.quants.quantize(values, quantised), raw_dtype=quantised
    )
  writer.add_tensor("vector", np.arange(5, dtype=np.float32))
  writer.add_tensor("cube", np.arange(24, dtype=np.float32).reshape(2, 3, 4))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def test_metadata(path):
  fields = GgufFile(path).fields
  assert fields["note"] == "naïve ☕"
  assert fields["pieces"] == ["a", "", "ĠĠ", "☕"]
  assert fields["scores"] == [0.5, -1.0]
  assert fields["flag"] is True
  assert fields["general.architecture"] == "llama"


@pytest.mark.parametrize("name", [*KINDS, "vector", "cube"])
def test_tensors_equal_those_of_the_library(path, name):
  [expected] = [t for t in gguf.GGUFReader(path).tensors if t.name == name]
  shape = tuple(int(size) for size in reversed(expected.shape))
  values = gguf.quants.dequantize(expected.data, expected.tensor_type)
  values = np.asarray(values, np.float32).reshape(shape)
  file = GgufFile(path)
  np.testing.assert_array_equal(file.read(name), values)
  np.testing.assert_array_equal(file.read(name, 1, 2), values[1:2])
  assert file.tensors[name].shape == shape


def test_a_file_truncated_anywhere_is_refused(path, tmp_path):
  content = path.read_bytes()
  cut = tmp_path / "cut.gguf"
  for length in [*range(0, 900, 7), len(content) - 1]:
    cut.write_bytes(content[:length])
    with pytest.raises(WeightsError, match=r"cut\.gguf"):
      GgufFile(cut)


def test_damaged_headers_raise_nothing_else(path, tmp_path):
  """Wrong lengths and types must neither crash nor fill the memory."""
  content = bytearray(path.read_bytes())
  broken = tmp_path / "broken.gguf"
  rng = np.random.default_rng(1)
  refused = 0
  for _ in range(300):
    damaged = bytearray(content)
    for at in rng.integers(0, 700, 3):
      damaged[at] = rng.integers(0, 256)
    broken.write_bytes(damaged)
    try:
      GgufFile(broken)
    except WeightsError:
      refused += 1
  assert refused > 100
