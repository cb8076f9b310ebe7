"""A published model, all the way: pruned, LoRA, then all of it, and back out.

The first stage trains LoRA on two domains, the second one everything on one
of them; the export has the full vocabulary again.
"""

import dataclasses
import json

import flax.traverse_util
import jax
import numpy as np
import pytest
import sentencepiece

from calrec_jax.__main__ import main
from calrec_jax.checkpoint import store
from calrec_jax.models.decoder import Decoder, DecoderConfig
from calrec_jax.models.pretrained import export, loading, sources
from tests.fixtures import planted_log, vocabulary_toys

SHAPE = {
  "width": 32,
  "layers": 2,
  "heads": 2,
  "kv_heads": 1,
  "head_dim": 16,
  "mlp_width": 64,
  "activation": "gelu_tanh",
  "qk_norm": True,
  "post_norms": True,
  "embed_scale": True,
  "rope_theta": 1e6,
  "rope_theta_local": 1e4,
  "window": 24,
  "global_every": 2,
}


# Two trained stages: a minute.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def published(tmp_path_factory):
  """A folder as Hugging Face has it, and its tensors."""
  tokenizer = vocabulary_toys.sentencepiece_model()
  rows = _opened(tokenizer).vocab_size()
  config = DecoderConfig(**SHAPE, vocab_size=rows, dtype="float32")
  tokens = np.zeros((1, 1), np.int32)
  params = jax.jit(Decoder(config).init)(
    jax.random.key(0), tokens, tokens, tokens + 1
  )["params"]
  flat = flax.traverse_util.flatten_dict(
    jax.tree.map(
      lambda leaf: np.asarray(getattr(leaf, "value", leaf)),
      params,
      is_leaf=lambda leaf: hasattr(leaf, "names"),
    ),
    sep="/",
  )
  folder = tmp_path_factory.mktemp("published") / "model"
  return export.write_folder(
    folder,
    config,
    flat.__getitem__,
    special={"bos": 2, "eos": 1, "pad": 0},
    files=[
      ("tokenizer.model", tokenizer),
      ("tokenizer_config.json", b'{"add_bos_token": true}'),
    ],
  )


@pytest.fixture(scope="module")
def flags(published, tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  recipe = folder / "mine.gin"
  bindings = "\n".join(
    f"DecoderConfig.{name} = {value!r}" for name, value in SHAPE.items()
  )
  recipe.write_text(
    f"""
include "{planted_log.write_folders(folder)}"
include "data/pretrained.gin"
include "tuning/lora.gin"
{bindings}
VOCABULARY_SOURCE = "{published}"
joint/INITIAL_CHECKPOINT_PATH = %VOCABULARY_SOURCE
MODEL_DIR = "{folder}/model"
joint/TRAIN_STEPS = 3
target/TRAIN_STEPS = 2
TASK_FEATURE_LENGTHS = {{"tokens": 384, "slots": 24}}
LORA_RANK = 2
target/DecoderConfig.lora = None
target/Tuning.trainable = (".*",)
# Two steps make nothing better, and what they made is looked at.
target/Validation.at_start = False
CheckpointPolicy.period = 100
"""
  )
  return [f"--gin_file={recipe}"], folder / "model"


@pytest.fixture(scope="module")
def trained(flags):
  arguments, folder = flags
  assert main(["train", *arguments]) == 0
  return folder


def test_the_first_stage_starts_from_the_published_weights(trained, published):
  checkpoint = trained / "joint" / "checkpoint_3"
  record = store.read_json(checkpoint, "lineage")
  assert record["parent"]["kind"] == "Hugging Face folder"
  vocabulary = store.read_json(checkpoint, "vocabulary")
  row_map = np.array(vocabulary["kept"])
  assert vocabulary["size"] == len(row_map) < vocabulary["full_size"]
  source = sources.open_source(published)
  arrays = store.read_arrays(checkpoint)
  # Only LoRA was trained.
  np.testing.assert_array_equal(
    arrays["target/token_embedder/embedding"],
    source.read("model.embed_tokens.weight")[row_map],
  )
  assert np.any(arrays["target/layers/mlp/wo/lora_b"])


def test_the_pruned_checkpoint_is_the_same_start(
  trained, flags, published, tmp_path
):
  arguments, _ = flags
  convert = ["checkpoint", "convert", "--prune", *arguments]
  assert main([*convert, str(published), str(tmp_path / "pruned")]) == 0
  start = [
    f"--gin.joint/INITIAL_CHECKPOINT_PATH='{tmp_path / 'pruned'}'",
    f"--gin.MODEL_DIR='{tmp_path / 'model'}'",
  ]
  assert main(["train", *arguments, *start, "--stage=joint"]) == 0
  ours, theirs = (
    store.read_arrays(model / "joint" / "checkpoint_3")
    for model in (tmp_path / "model", trained)
  )
  assert ours.keys() == theirs.keys()
  for path, value in ours.items():
    np.testing.assert_array_equal(value, theirs[path], err_msg=path)


def test_a_dry_run_of_pruning_builds_nothing(
  flags, published, tmp_path, capsys
):
  arguments = [*flags[0], "--gin.Prompt.next='Another sentence: '"]
  convert = ["checkpoint", "convert", "--prune", "--dry_run", *arguments]
  assert main([*convert, str(published), str(tmp_path / "pruned")]) != 0
  assert "no token cache" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_the_second_stage_trains_the_merged_model(trained):
  before, after = (
    store.read_arrays(store.find(trained / stage))
    for stage in ("joint", "target")
  )
  assert not [path for path in after if "lora" in path]
  name = "target/layers/mlp/wo/kernel"
  a, b = (before[f"target/layers/mlp/wo/lora_{leaf}"] for leaf in "ab")
  merged = before[name] + 16.0 * np.einsum("lir,lro->lio", a, b)
  # Two steps at a small rate lie between.
  np.testing.assert_allclose(after[name], merged, atol=5e-3)
  assert np.any(after[name] != merged)


def test_the_export_is_the_published_model_with_other_numbers(
  trained, published, tmp_path
):
  out = tmp_path / "out"
  arguments = [str(trained / "target"), str(out), "--to=huggingface"]
  assert main(["checkpoint", "convert", *arguments]) == 0
  base, exported = sources.open_source(published), sources.open_source(out)
  assert exported.shapes == base.shapes
  assert exported.decoder_fields() == base.decoder_fields()
  vocabulary = store.read_json(store.find(trained / "target"), "vocabulary")
  left_out = np.ones(base.num_tokens, bool)
  left_out[vocabulary["kept"]] = False
  table = "model.embed_tokens.weight"
  np.testing.assert_array_equal(
    exported.read(table)[left_out], base.read(table)[left_out]
  )
  assert np.all(
    np.any(exported.read(table)[2:3] != base.read(table)[2:3], axis=1)
  )
  for name in ("tokenizer.model", "tokenizer_config.json"):
    assert (out / name).read_bytes() == (published / name).read_bytes()
  # The prompt's ids are the full vocabulary's.
  tokenizer = _opened((published / "tokenizer.model").read_bytes())
  prompt = json.loads((out / "prompt.json").read_text())
  assert prompt["begin"] == 2
  assert tokenizer.decode([prompt["end"]]) == "\n"
  assert tokenizer.decode(prompt["next"]).startswith("The next item")
  config = dataclasses.replace(
    DecoderConfig(**base.decoder_fields()), vocab_size=base.num_tokens
  )
  loading.load_params(exported, config)


def test_another_vocabulary_is_refused(trained, flags, capsys):
  arguments = [*flags[0], "--gin.PRUNE_VOCABULARY=False"]
  assert main(["eval", *arguments]) == 1
  assert "the same ids mean other texts" in capsys.readouterr().err


def test_another_shape_is_refused(flags, tmp_path, capsys):
  arguments = [
    *flags[0],
    "--gin.DecoderConfig.window=25",
    f"--gin.MODEL_DIR='{tmp_path}'",
  ]
  assert main(["train", *arguments]) == 1
  assert "DecoderConfig.window is 25, the model has 24" in (
    capsys.readouterr().err
  )


def test_a_vocabulary_of_its_own_does_not_fit(flags, tmp_path, capsys):
  arguments = [
    *flags[0],
    "--gin.Dataset.vocabulary=@TrainedSentencePiece()",
    f"--gin.MODEL_DIR='{tmp_path}'",
  ]
  assert main(["train", *arguments]) == 1
  assert "VOCABULARY_SOURCE" in capsys.readouterr().err


def _opened(model):
  return sentencepiece.SentencePieceProcessor(model_proto=model)
