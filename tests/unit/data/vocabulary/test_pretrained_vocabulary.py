"""Vocabularies of pretrained models, from their files to the token cache."""

import dataclasses
import json
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest

from calrec_jax.data import building
from calrec_jax.data import dataset as dataset_lib
from calrec_jax.data.cache import token_cache
from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.domain import prompt as prompt_lib
from calrec_jax.data.feed import tokenization
from calrec_jax.data.logs.log_files import LogFiles
from calrec_jax.data.vocabulary import files as vocabulary_files
from calrec_jax.data.vocabulary import pretrained
from calrec_jax.data.vocabulary.pretrained import PretrainedVocabulary
from calrec_jax.data.vocabulary.sentencepiece import SentencePieceModel
from calrec_jax.data.vocabulary.sentencepiece_rules import SentencePieceRules
from calrec_jax.weights import packages
from tests.fixtures import vocabulary_toys as toys

PROMPT = prompt_lib.Prompt(prefix="History.\n", first="One.\n", next="And.\n")
KINDS = ("sentencepiece", "byte_bpe")


def template(tokenizer, begin="<|begin|>"):
  """The tokenizer with Llama 3's post-processor."""
  processors = toys.tokenizers.processors
  tokenizer.post_processor = processors.Sequence(
    [
      processors.ByteLevel(trim_offsets=False),
      processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, 1)]
      ),
    ]
  )
  return tokenizer


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """A file or folder of every kind that is read."""
  root = tmp_path_factory.mktemp("models")
  model, bpe = toys.sentencepiece_model(), toys.byte_bpe()
  made = {
    "gguf": toys.write_sentencepiece_gguf(root / "spm.gguf", model),
    "bare gguf": toys.write_sentencepiece_gguf(
      root / "bare.gguf", model, add_bos_token=False
    ),
    "silent gguf": toys.write_sentencepiece_gguf(
      root / "silent.gguf", model, add_bos_token=None
    ),
    "bpe gguf": toys.write_byte_bpe_gguf(root / "bpe.gguf", bpe),
    "begun bpe gguf": toys.write_byte_bpe_gguf(
      root / "begun.gguf", bpe, add_bos_token=True
    ),
    "model": root / "spm.model",
    "json": root / "tokenizer.json",
    "llama json": root / "llama.json",
  }
  made["model"].write_bytes(model)
  made["json"].write_text(bpe.to_str())
  made["llama json"].write_text(template(toys.byte_bpe("llama-bpe")).to_str())

  def folder(name, config=None, **contents):
    made[name] = root / name.replace(" ", "_")
    made[name].mkdir()
    for file, content in contents.items():
      path = made[name] / f"tokenizer.{file}"
      path.write_bytes(content)
    if config is not None:
      text = json.dumps(config)
      (made[name] / "tokenizer_config.json").write_text(text)

  saved = bpe.to_str().encode()
  folder("gemma", {"add_bos_token": True, "bos_token": "<s>"}, model=model)
  folder("gemma without", {"add_bos_token": False}, model=model)
  # Llama 3 calls a file of another format tokenizer.model.
  folder("llama", None, model=b"IQ== 0\n", json=made["llama json"].read_bytes())
  folder("smol", {"bos_token": {"content": "<|begin|>"}}, json=saved)
  folder("empty", {})
  return made


@pytest.mark.parametrize(
  ("name", "kind", "begin"),
  [
    ("gguf", "sentencepiece", 2),
    ("bare gguf", "sentencepiece", None),
    ("silent gguf", "sentencepiece", 2),
    ("model", "sentencepiece", 2),
    ("gemma", "sentencepiece", 2),
    ("gemma without", "sentencepiece", None),
    ("bpe gguf", "byte_bpe", None),
    ("begun bpe gguf", "byte_bpe", 1),
    ("json", "byte_bpe", None),
    ("llama json", "byte_bpe", 1),
    ("llama", "byte_bpe", 1),
    ("smol", "byte_bpe", None),
  ],
)
def test_sources_and_their_begin_tokens(files, name, kind, begin, tmp_path):
  chosen = PretrainedVocabulary(source=str(files[name]))
  made = chosen.make(str(tmp_path / "v"), [], PROMPT, None)
  assert (made.kind, made.begin) == (kind, begin)
  assert made.pretrained
  assert made.row_map is None
  assert (made.size, made.sha256) == (made.full_size, made.full_sha256)
  assert made.decode(made.encode("green tea\n")) == "green tea\n"
  without = dataclasses.replace(chosen, begin=False)
  assert without.make(str(tmp_path / "w"), [], PROMPT, None).begin is None
  if name != "json":
    certain = dataclasses.replace(chosen, begin=True)
    begun = certain.make(str(tmp_path / "b"), [], PROMPT, None).begin
    assert begun == (2 if kind == "sentencepiece" else 1)


def test_a_missing_begin_token_is_refused(files, tmp_path):
  chosen = PretrainedVocabulary(source=str(files["json"]), begin=True)
  with pytest.raises(ValueError, match=r"PretrainedVocabulary\.begin"):
    chosen.make(str(tmp_path / "v"), [], PROMPT, None)


def test_files_other_than_tokenizers_are_refused(files, tmp_path):
  with pytest.raises(packages.WeightsError, match="VOCABULARY_SOURCE"):
    pretrained.read(files["empty"])
  (tmp_path / "x.model").write_bytes(b"nothing")
  with pytest.raises(packages.WeightsError, match="not a SentencePiece model"):
    pretrained.read(tmp_path / "x.model")
  wordpiece = toys.tokenizers.Tokenizer(
    toys.tokenizers.models.WordPiece({"a": 0, "[UNK]": 1})
  )
  (tmp_path / "tokenizer.json").write_text(wordpiece.to_str())
  with pytest.raises(packages.WeightsError, match="not byte-level BPE"):
    pretrained.read(tmp_path / "tokenizer.json")
  with pytest.raises(packages.WeightsError, match="mean 'gemma3-270m'"):
    pretrained.read("gemma3-270")


def test_a_package_is_known_by_its_hash_alone(monkeypatch):
  monkeypatch.setattr(packages, "resolve", None)  # Nothing is opened.
  fingerprints = {
    PretrainedVocabulary(source=name).fingerprint([], PROMPT)
    for name in packages.PACKAGES
  }
  assert len(fingerprints) == len(packages.PACKAGES)


def test_the_fingerprint_follows_file_options_and_texts(files, dataset):
  domains = dataset.domains

  def digest(name="gguf", prompt=PROMPT, chosen=domains, **options):
    made = PretrainedVocabulary(source=str(files[name]), **options)
    return made.fingerprint(chosen, prompt)

  assert digest() == digest()
  assert digest() == digest(prompt=prompt_lib.Prompt(), chosen=[])
  assert digest(pruned=True) == digest(pruned=True, domains=("first", "second"))
  several = [
    digest(),
    digest("bare gguf"),
    digest(begin=True),
    digest(pruned=True),
    digest(pruned=True, prompt=prompt_lib.Prompt()),
    digest(pruned=True, domains=("first",)),
  ]
  assert len(set(several)) == len(several)
  with pytest.raises(ValueError, match=r"PretrainedVocabulary\.domains"):
    digest(pruned=True, domains=("third",))


def test_the_hash_of_a_large_file_is_cached_until_it_changes(files, tmp_path):
  source = tmp_path / "m.gguf"
  source.write_bytes(files["gguf"].read_bytes())
  chosen = PretrainedVocabulary(source=str(source))
  first = chosen.fingerprint([], PROMPT)
  record = tmp_path / "m.gguf.sha256"
  _, _, stamp = record.read_text().partition(" ")
  record.write_text(f"{'0' * 64} {stamp}")
  assert chosen.fingerprint([], PROMPT) != first  # It was not hashed again.
  source.write_bytes(files["bare gguf"].read_bytes())
  assert chosen.fingerprint([], PROMPT) not in (first, "0" * 64)
  source.write_bytes(files["gguf"].read_bytes())
  assert chosen.fingerprint([], PROMPT) == first


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  root = tmp_path_factory.mktemp("logs")
  return dataset_lib.Dataset(
    domains=[
      domain_lib.Domain(
        name=name,
        source=_write_log(root / name, seed),
        fields=(("Title", "title", None, 6),)
        if seed
        else (("Title", "title"),),
        min_count=2,
      )
      for seed, name in enumerate(("first", "second"))
    ],
    prompt=PROMPT,
    data_dir=str(tmp_path_factory.mktemp("data")),
  )


def _write_log(folder, seed):
  folder.mkdir()
  titles = toys.texts(14, seed)
  rows = ["user_id,item_id,timestamp"]
  rows += [
    f"u{user},i{(user + at * 3) % 14},{at}"
    for user in range(9)
    for at in range(7)
  ]
  (folder / "events.csv").write_text("\n".join(rows) + "\n")
  items = [{"item_id": f"i{i}", "title": t} for i, t in enumerate(titles)]
  (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
  return LogFiles(
    folder=str(folder), interactions="events.csv", items="items.jsonl"
  )


@pytest.fixture(scope="module", params=KINDS)
def pair(request, dataset, files):
  """Caches by domain, of the full vocabulary and of the pruned one.

  The SeqIO tasks are those of the pruned one.
  """
  source = str(files["gguf" if request.param == "sentencepiece" else "llama"])
  opened = []
  for pruned in (False, True):
    chosen = dataclasses.replace(
      dataset, vocabulary=PretrainedVocabulary(source=source, pruned=pruned)
    )
    folders = building.build(chosen, "first", "second", progress=False)
    opened.append(
      {
        name: token_cache.TokenCache.open(path)
        for name, path in folders.items()
      }
    )
  from calrec_jax.data.seqio import building as seqio_building

  seqio_building.build_tfds(chosen, "first", progress=False)
  return opened


def test_the_catalogue_keeps_its_tokens(pair):
  full, pruned = pair
  for name, opened in pruned.items():
    vocabulary, before = opened.vocabulary(), full[name].vocabulary()
    row_map = vocabulary.row_map
    assert vocabulary.size == len(row_map) < before.size
    assert vocabulary.size % 128 == 0
    assert (vocabulary.full_size, vocabulary.full_sha256) == (
      before.size,
      before.sha256,
    )
    assert vocabulary.sha256 != before.sha256
    assert list(opened.catalogue.texts) == list(full[name].catalogue.texts)
    values, offsets = opened.item_tokens
    expected, expected_offsets = full[name].item_tokens
    assert row_map[values].tolist() == expected.tolist()
    assert offsets.tolist() == expected_offsets.tolist()
    assert row_map[opened.prompt.begin] == full[name].prompt.begin
    assert row_map[list(opened.prompt.next)].tolist() == list(
      full[name].prompt.next
    )


def test_texts_limited_in_tokens_are_truncated_alike(pair):
  _, pruned = pair
  lengths = pruned["second"].catalogue.lengths
  assert lengths.max() <= 6 + len(
    pruned["second"].vocabulary().encode("Title:.\n")
  )


def test_tokens_needed_for_truncation_are_retained(files, dataset, tmp_path):
  """Fields are cut as the full vocabulary would cut them."""
  chosen = PretrainedVocabulary(source=str(files["gguf"]), pruned=True)
  full = pretrained.read(files["gguf"]).content
  order = SentencePieceRules(full).order.tolist()
  model = SentencePieceModel(full)
  # Merged late: nothing but its use would keep it.
  last = [token for token in order if len(model.piece(token)) > 1][-1]
  word = model.piece(last).replace("\u2581", " ")

  def make(folder, *encoded):
    def prepare(domain, tokenizer):
      for text in encoded:
        assert tokenizer.decode(tokenizer.encode(text)) == text
      no_kinds = types.SimpleNamespace(kind_names=())
      return types.SimpleNamespace(texts=["tea"], events=no_kinds)

    return chosen.make(str(folder), dataset.domains[:1], PROMPT, prepare)

  assert last not in make(tmp_path / "without").row_map
  assert last in make(tmp_path / "with", word).row_map


def test_the_cache_speaks_as_the_vocabulary(pair):
  for caches in pair:
    for opened in caches.values():
      vocabulary = opened.vocabulary()
      for row, text in enumerate(opened.catalogue.texts):
        tokens = opened.catalogue.tokens(row).tolist()
        assert tokens == [*vocabulary.encode(text), opened.prompt.end]
        assert (
          vocabulary.decode([opened.prompt.begin, *tokens, 10**6])
          == text + "\n"
        )


def test_the_vocabulary_travels_with_the_cache(pair):
  _, pruned = pair
  opened = pruned["first"]
  names = {path.name for path in (opened.path / "vocabulary").iterdir()}
  assert {"vocabulary.json", "kept.npy"} < names
  assert len(names) == 3
  card = opened.card["vocabulary"]
  assert (card["size"], card["full_size"]) == (
    opened.vocabulary().size,
    opened.vocabulary().full_size,
  )


def test_a_changed_map_is_refused(pair, tmp_path):
  _, pruned = pair
  for path in pruned["first"].vocabulary().files:
    shutil.copy(path, tmp_path)
  assert vocabulary_files.load(tmp_path).row_map is not None
  np.save(tmp_path / "kept.npy", pruned["first"].vocabulary().row_map[::-1])
  with pytest.raises(ValueError, match=r"kept\.npy"):
    vocabulary_files.load(tmp_path)


def test_the_task_gives_the_prompt_of_inference(pair):
  from calrec_jax.data.seqio import tasks

  _, pruned = pair
  opened = pruned["first"]
  task = tasks.seqio.get_mixture_or_task("first")
  examples = task.get_dataset(None, split="test", shuffle=False)
  by_user = {e["user_id"].decode(): e for e in examples.as_numpy_iterator()}
  for document in opened.documents("test", range(3)):
    tokens = [opened.catalogue.tokens(row) for row in document.items]
    expected = tokenization.prompt_tokens(opened.prompt, tokens[:-1])
    found = by_user[document.user_id]
    assert found["inputs"].tolist() == expected.tolist()
    assert found["targets"].tolist() == tokens[-1].tolist()


def test_inference_imports_neither_tensorflow_nor_jax(pair):
  folder = pair[1]["first"].path / "vocabulary"
  code = (
    "import sys\nfrom calrec_jax.data.vocabulary import files\n"
    f"loaded = files.load({str(folder)!r})\n"
    "assert loaded.decode(loaded.encode('tea')) == 'tea'\n"
    "assert len(loaded.row_map) == loaded.size\n"
    "bad = {'tensorflow', 'seqio', 'jax', 'gguf'} & set(sys.modules)\n"
    "sys.exit(f'imported {bad}' if bad else 0)"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
