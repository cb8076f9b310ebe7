"""Models of every format become checkpoints, and go back out."""

import dataclasses
import json
import types

import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from calrec_jax.checkpoint import conversion, initial_parameters, store
from calrec_jax.cli import convert
from calrec_jax.data.vocabulary import files
from calrec_jax.models import lora as loras
from calrec_jax.models.pretrained import loading, sources
from calrec_jax.runtime import partitioning
from calrec_jax.storage import identity, lineage
from calrec_jax.weights.packages import WeightsError
from tests.fixtures import pretrained_toys

pytestmark = pytest.mark.heavy


def test_a_folder_becomes_a_checkpoint_and_comes_back(tmp_path, capsys):
  config, params = pretrained_toys.huggingface(tmp_path / "theirs", "llama")
  assert convert.main([str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
  checkpoint = tmp_path / "ours" / "checkpoint_0"
  assert capsys.readouterr().out.strip() == str(checkpoint)
  assert list((tmp_path / "ours").iterdir()) == [checkpoint]
  stored = store.read_arrays(checkpoint)
  assert stored.keys() == {f"target/{path}" for path in params}
  for path, value in params.items():
    np.testing.assert_array_equal(stored[f"target/{path}"], value)
  record = store.read_json(checkpoint, "lineage")
  assert record["parent"]["name"] == "theirs"
  again = tmp_path / "again"
  arguments = [str(tmp_path / "ours"), str(again), "--to=huggingface"]
  assert convert.main(arguments) == 0
  loaded = loading.load_params(sources.open_source(again), config)
  for path, value in _flat(loaded).items():
    np.testing.assert_array_equal(value, params[path])
  with pytest.raises(FileExistsError):
    convert.main([str(tmp_path / "theirs"), str(tmp_path / "ours")])


def test_the_temperature_of_the_towers_comes_along(tmp_path):
  config, params = pretrained_toys.model("llama")
  saved = _save(
    tmp_path / "ours", config, params, Objective={"temperature": 0.05}
  )
  folder = conversion.to_huggingface(
    conversion.open_model(saved), tmp_path / "theirs", progress=False
  )
  again = conversion.to_checkpoint(
    conversion.open_model(folder), tmp_path / "back", progress=False
  )
  for checkpoint in (saved, again):
    record = store.read_json(checkpoint, "lineage")
    assert lineage.temperature(record) == 0.05
  (folder / conversion.TOWERS_FILE).write_text("{}")
  with pytest.raises(WeightsError, match="gives no temperature"):
    conversion.open_model(folder)


def test_lora_is_merged_on_the_way_out(tmp_path):
  config, params = pretrained_toys.model("llama")
  lora = loras.Lora(rank=2, alpha=6.0, targets=("query", "out", "wi_0"))
  config = dataclasses.replace(config, lora=lora)
  rng = np.random.default_rng(0)
  leaves = {
    path: rng.normal(size=leaf.shape).astype(np.float32)
    for path, leaf in _flat(loading.abstract_params(config)).items()
    if path.split("/")[-1] in loras.LEAVES
  }
  assert len(leaves) == 6
  checkpoint = _save(tmp_path / "ours", config, params | leaves)
  folder = conversion.to_huggingface(
    conversion.open_model(checkpoint), tmp_path / "out", progress=False
  )
  plain = dataclasses.replace(config, lora=None)
  loaded = _flat(loading.load_params(sources.open_source(folder), plain))
  a, b = (leaves[f"layers/mlp/wi_0/lora_{name}"] for name in "ab")
  for layer in range(config.layers):
    expected = (
      params["layers/mlp/wi_0/kernel"][layer] + 3.0 * a[layer] @ b[layer]
    )
    np.testing.assert_allclose(
      loaded["layers/mlp/wi_0/kernel"][layer], expected, rtol=1e-5, atol=1e-5
    )
  np.testing.assert_array_equal(
    loaded["layers/mlp/wo/kernel"], params["layers/mlp/wo/kernel"]
  )
  assert not np.allclose(
    loaded["layers/attention/out/kernel"],
    params["layers/attention/out/kernel"],
  )


def test_a_pruned_checkpoint_needs_and_finds_its_base(tmp_path):
  config, params = pretrained_toys.huggingface(tmp_path / "base", "llama")
  row_map = [0, 3, 5, 9]
  small = dataclasses.replace(config, vocab_size=len(row_map))
  trained = dict(params)
  trained["token_embedder/embedding"] = (
    params["token_embedder/embedding"][row_map] * 2
  )
  trained["logits_dense/kernel"] = params["logits_dense/kernel"][:, row_map] * 2
  prompt = {"begin": 1, "end": 2, "prefix": [3], "first": [], "next": [0, 2]}
  vocabulary = {"size": 4, "full_size": 48, "kept": row_map, "prompt": prompt}
  for number, source in enumerate([str(tmp_path / "base"), None]):
    checkpoint = _save(
      tmp_path / f"run{number}",
      small,
      trained,
      vocabulary | {"source": source, "pretrained": True},
    )
    model = conversion.open_model(checkpoint)
    out = tmp_path / f"out{number}"
    if source is None:
      with pytest.raises(WeightsError, match="--base"):
        conversion.to_huggingface(model, out, progress=False)
    conversion.to_huggingface(
      model, out, base=str(tmp_path / "base"), progress=False
    )
    table = sources.open_source(out).read("model.embed_tokens.weight")
    expected = params["token_embedder/embedding"].copy()
    expected[row_map] *= 2
    np.testing.assert_array_equal(table, expected)
    written = json.loads((out / "prompt.json").read_text())
    assert written == {
      "begin": 3, "end": 5, "prefix": [9], "first": [], "next": [0, 5]
    }  # fmt: skip
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [5]


def test_a_model_cut_to_a_vocabulary_and_its_first_layers(tmp_path):
  config, params = pretrained_toys.huggingface(tmp_path / "theirs", "llama")
  row_map = [0, 3, 5, 9]
  record = {
    "size": 4, "full_size": 48, "kept": row_map, "pretrained": True,
    "sha256": "a",
  }  # fmt: skip
  cut = conversion.Cut(_vocabulary(files.Origin(48, "b")), record)
  model = conversion.open_model(tmp_path / "theirs", cut=cut, layers=1)
  assert model.config == dataclasses.replace(
    config, vocab_size=4, layers=1, dtype=model.config.dtype
  )
  checkpoint = conversion.to_checkpoint(
    model, tmp_path / "ours", dtype="bfloat16", progress=False
  )
  assert store.read_json(checkpoint, "vocabulary") == record
  stored = store.metadata(checkpoint)
  assert {str(leaf.dtype) for leaf in stored.values()} == {"bfloat16"}
  # A stage reads them into its own dtype.
  abstract = loading.abstract_params(model.config)
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  loaded = initial_parameters.open_source(checkpoint).params(
    model.config,
    types.SimpleNamespace(sha256="a", size=4),
    abstract,
    jax.tree.map(lambda _: place, abstract),
    {},
  )
  expected = params | {
    "token_embedder/embedding": params["token_embedder/embedding"][row_map],
    "logits_dense/kernel": params["logits_dense/kernel"][:, row_map],
  }
  for path, value in _flat(loaded).items():
    assert value.dtype == np.float32
    wanted = expected[path][:1] if "layers/" in path else expected[path]
    np.testing.assert_array_equal(
      value, np.asarray(wanted).astype(jax.numpy.bfloat16).astype(np.float32)
    )


def test_what_cannot_be_cut_is_refused(tmp_path):
  pretrained_toys.huggingface(tmp_path / "theirs", "llama")
  for origin, fault in (
    (None, "data/pretrained.gin"),
    (files.Origin(49, "b"), "VOCABULARY_SOURCE"),
  ):
    cut = conversion.Cut(_vocabulary(origin), {})
    with pytest.raises(store.CheckpointError, match=fault):
      conversion.open_model(tmp_path / "theirs", cut=cut)
  for layers in (0, 3):
    with pytest.raises(WeightsError, match="has 2 layers"):
      conversion.open_model(tmp_path / "theirs", layers=layers)
  model = conversion.open_model(tmp_path / "theirs")
  checkpoint = conversion.to_checkpoint(
    model, tmp_path / "ours", progress=False
  )
  with pytest.raises(WeightsError, match="only a published model"):
    conversion.open_model(checkpoint, layers=1)


def test_t5x_checkpoints_start_a_stage_and_convert(tmp_path, monkeypatch):
  config, params = pretrained_toys.model("llama")
  checkpoint = tmp_path / "checkpoint_100"
  tree = flax.traverse_util.unflatten_dict(
    {
      f"target/{path}": value
      for path, value in pretrained_toys.t5x_tree(params).items()
    }
    | {"state/step": np.int32(100)},
    sep="/",
  )
  with ocp.PyTreeCheckpointer() as checkpointer:
    checkpointer.save(checkpoint / "state", tree)
  with pytest.raises(WeightsError, match="gin_file=models"):
    conversion.open_model(checkpoint)
  unsized = dataclasses.replace(config, vocab_size=None)
  model = conversion.open_model(checkpoint, unsized)
  assert model.config.vocab_size == 48
  written = conversion.to_checkpoint(model, tmp_path / "ours", progress=False)
  stored = store.read_arrays(written)
  for path, value in params.items():
    np.testing.assert_array_equal(stored[f"target/{path}"], value)
  source = initial_parameters.open_source(checkpoint)
  assert source.describe()["kind"] == "t5x checkpoint"
  mesh = partitioning.make_mesh(partitioning.MeshShape(fsdp=4, tensor=2))
  abstract = loading.abstract_params(config)
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  shardings = jax.tree.map(lambda _: place, abstract)
  loaded = source.params(config, None, abstract, shardings, {})
  for path, value in _flat(loaded).items():
    np.testing.assert_array_equal(value, params[path])


@pytest.mark.parametrize("name", ["checkpoint", "target.decoder"])
def test_older_t5x_formats_are_refused(tmp_path, name):
  (tmp_path / "checkpoint_5" / name).mkdir(parents=True)
  with pytest.raises(store.CheckpointError, match="Orbax"):
    initial_parameters.open_source(tmp_path / "checkpoint_5")


def test_a_conversion_that_fails_leaves_no_checkpoint(tmp_path, monkeypatch):
  pretrained_toys.huggingface(tmp_path / "theirs", "llama")
  model = conversion.open_model(tmp_path / "theirs")

  def fail(*_, **__):
    raise OSError("No space left on device")

  monkeypatch.setattr(ocp.JsonCheckpointHandler, "save", fail)
  with pytest.raises(OSError, match="No space"):
    conversion.to_checkpoint(model, tmp_path / "ours", progress=False)
  assert list((tmp_path / "ours").iterdir()) == []


def test_names_that_mean_nothing_say_what_there_is(tmp_path):
  with pytest.raises(WeightsError, match="gemma3-270m"):
    initial_parameters.open_source(tmp_path / "nowhere")
  with pytest.raises(store.CheckpointError, match="no checkpoint_"):
    initial_parameters.open_source(tmp_path)


def _vocabulary(origin):
  return files.Vocabulary("nowhere", None, "a", origin=origin)


def _save(folder, config, params, vocabulary=None, **training):
  return store.write_params(
    folder,
    params,
    lineage=lineage.describe(
      stage="target",
      parent=None,
      data={},
      training={
        "DecoderConfig": identity.plain(dataclasses.asdict(config)),
        **training,
      },
      configuration="",
    ),
    vocabulary=vocabulary or {},
  )


def _flat(tree):
  return flax.traverse_util.flatten_dict(tree, sep="/")
