"""Tokenizers rebuilt from GGUF files encode as those they were written from."""

import json

import pytest
import sentencepiece

from calrec_jax.data.vocabulary import gguf, pruning
from calrec_jax.data.vocabulary.byte_bpe import ByteBpeModel
from calrec_jax.data.vocabulary.byte_bpe_rules import ByteBpeRules
from calrec_jax.data.vocabulary.sentencepiece import SentencePieceModel
from calrec_jax.weights.packages import WeightsError
from tests.fixtures import vocabulary_toys as toys

TEXTS = [
  *toys.texts(),
  *toys.texts(200, seed=1),
  "",
  " ",
  "   x",
  "a  b   c    d",
  "\n",
  "x\n\ny\n",
  "it's 12,345 ½ naïve ☕ 字\u0000",
]


@pytest.fixture(scope="module")
def sentencepiece_model():
  return toys.sentencepiece_model()


def test_sentencepiece(sentencepiece_model, tmp_path):
  path = toys.write_sentencepiece_gguf(tmp_path / "m", sentencepiece_model)
  found = gguf.read(path)
  assert (found.name, found.begin, found.adds_begin) == (
    "tokenizer.model",
    2,
    True,
  )
  reference = sentencepiece.SentencePieceProcessor(
    model_proto=sentencepiece_model
  )
  rebuilt = sentencepiece.SentencePieceProcessor(model_proto=found.content)
  assert rebuilt.encode(TEXTS) == reference.encode(TEXTS)
  for name in ("pad_id", "eos_id", "bos_id", "unk_id", "vocab_size"):
    assert getattr(rebuilt, name)() == getattr(reference, name)()
  for token in range(reference.vocab_size()):
    assert rebuilt.id_to_piece(token) == reference.id_to_piece(token)
    assert rebuilt.is_control(token) == reference.is_control(token)
    assert rebuilt.is_byte(token) == reference.is_byte(token)
  assert SentencePieceModel(found.content).begin == 2


@pytest.mark.parametrize("pre", ["smollm", "llama-bpe"])
def test_byte_level_bpe(pre, tmp_path):
  reference = toys.byte_bpe(pre)
  path = toys.write_byte_bpe_gguf(tmp_path / "m", reference, pre)
  found = gguf.read(path)
  assert found.name == "tokenizer.json"
  # Llama 3 begins with a token even where the file does not say so.
  assert (found.begin, found.adds_begin) == (1, pre == "llama-bpe")
  rebuilt = ByteBpeModel(found.content)
  expected = [e.ids for e in reference.encode_batch(TEXTS)]
  assert rebuilt.encode_all(TEXTS) == expected
  assert [rebuilt.encode(text) for text in TEXTS] == expected
  assert [rebuilt.decode(ids) for ids in expected] == TEXTS
  assert rebuilt.size == reference.get_vocab_size()


def test_llama_3_looks_up_whole_words_first(tmp_path):
  saved = json.loads(toys.byte_bpe("llama-bpe").to_str())
  vocabulary = saved["model"]["vocab"]
  vocabulary["\u0120zebras"] = token = len(vocabulary)  # No merge makes it.
  tokenizer = toys.tokenizers.Tokenizer.from_str(json.dumps(saved))
  path = toys.write_byte_bpe_gguf(tmp_path / "m", tokenizer, "llama-bpe")
  content = gguf.read(path).content
  model, rules = ByteBpeModel(content), ByteBpeRules(content)
  assert model.encode(" zebras") == [token]
  assert len(model.encode(" zebrass")) > 1
  seen = pruning.Seen(model)
  seen.add(["two zebras", "zebras zebra"])
  row_map = pruning.choose(rules, seen.used())
  assert token in row_map
  pruning.verify(seen, ByteBpeModel(rules.select(row_map)), row_map)


def test_a_control_token_in_a_text_is_text(tmp_path):
  path = toys.write_byte_bpe_gguf(tmp_path / "m", toys.byte_bpe())
  model = ByteBpeModel(gguf.read(path).content)
  text = "soap<|endoftext|>"
  assert model.token("<|endoftext|>") not in model.encode(text)
  assert model.decode(model.encode(text)) == text
  assert model.decode([0, *model.encode("soap"), 1]) == "soap"


@pytest.mark.parametrize(
  ("kind", "pre"), [("gpt2", "qwen2"), ("gpt2", None), ("t5", "default")]
)
def test_other_tokenizers_are_refused(kind, pre, tmp_path):
  writer = toys.gguf.GGUFWriter(tmp_path / "m", "llama")
  writer.add_tokenizer_model(kind)
  if pre:
    writer.add_tokenizer_pre(pre)
  toys.finish(writer, {})
  with pytest.raises(WeightsError, match=r"PretrainedVocabulary\.source"):
    gguf.read(tmp_path / "m")
