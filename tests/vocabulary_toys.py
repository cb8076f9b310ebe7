"""Tokenizers of both kinds, trained on a few texts, and as GGUF files."""

import io
import json
import random

import gguf
import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2 as proto_lib
from tokenizers import decoders, models, pre_tokenizers, trainers

WORDS = (
  *("green", "tea", "bags", "rice", "cakes", "soap", "bar", "salted", "milk"),
  *("bread", "olive", "oil", "café", "naïve", "organic", "herbal", "bamboo"),
  *("½", "ounce", "12", "pack", "stainless", "steel", "narrow", "crown"),
)
MARKERS = ("\n", "\n\n", "\u2581\u2581", "\u2581\u2581\u2581")
SPARE = tuple(f"<unused{i}>" for i in range(20))
LLAMA_3_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TYPES = {"NORMAL": 1, "CONTROL": 3, "USER_DEFINED": 4, "UNUSED": 5, "BYTE": 6}


def texts(count=60, seed=0):
  """Item texts; a later seed gives words that were not trained on."""
  draw = random.Random(seed)
  made = []
  for number in range(count):
    words = [draw.choice(WORDS) for _ in range(draw.randrange(3, 9))]
    if seed:
      words.append("".join(draw.choices("abcdefghij &'.-/½é☕字", k=9)))
    made.append(f"Title: {' '.join(words)} {number} OZ. Price: {number}.99.")
  return made


def sentencepiece_model(vocab_size=600, **options):
  """A SentencePiece BPE model that is laid out like Gemma's, as bytes."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts(200)),
    model_writer=model,
    **{
      "vocab_size": vocab_size,
      "model_type": "bpe",
      "pad_id": 0,
      "eos_id": 1,
      "bos_id": 2,
      "unk_id": 3,
      "byte_fallback": True,
      "hard_vocab_limit": False,
      "normalization_rule_name": "identity",
      "remove_extra_whitespaces": False,
      "add_dummy_prefix": False,
      "character_coverage": 1.0,
      "control_symbols": list(SPARE),
      "user_defined_symbols": list(MARKERS),
      "num_threads": 1,
      "minloglevel": 2,
    }
    | options,
  )
  return model.getvalue()


def write_sentencepiece_gguf(path, model, **fields):
  """Writes a SentencePiece model as llama.cpp stores it."""
  proto = proto_lib.ModelProto.FromString(model)
  kinds = [
    proto_lib.ModelProto.SentencePiece.Type.Name(p.type) for p in proto.pieces
  ]
  writer = gguf.GGUFWriter(path, "gemma3")
  writer.add_tokenizer_model("llama")
  writer.add_tokenizer_pre("default")
  writer.add_token_list(
    [
      p.piece.replace("\u2581", " ") if kind == "USER_DEFINED" else p.piece
      for p, kind in zip(proto.pieces, kinds, strict=True)
    ]
  )
  writer.add_token_scores(
    [
      p.score if k == "NORMAL" else -1000.0
      for p, k in zip(proto.pieces, kinds, strict=True)
    ]
  )
  # llama.cpp counts the unknown token among the control tokens.
  writer.add_token_types([_TYPES.get(kind, 3) for kind in kinds])
  spec = proto.trainer_spec
  writer.add_pad_token_id(spec.pad_id)
  writer.add_eos_token_id(spec.eos_id)
  writer.add_bos_token_id(spec.bos_id)
  writer.add_unk_token_id(spec.unk_id)
  finish(writer, {"add_bos_token": True, "add_space_prefix": False} | fields)
  return path


def byte_bpe(pre="smollm", vocab_size=500):
  """A trained byte-level BPE tokenizer of the Llama family."""
  tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
  if pre == "smollm":
    cuts = [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ]
  else:
    words = tokenizers.Regex(LLAMA_3_WORDS)
    cuts = [
      pre_tokenizers.Split(words, behavior="isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.train_from_iterator(
    texts(200),
    trainers.BpeTrainer(
      vocab_size=vocab_size,
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      special_tokens=[
        "<|endoftext|>",
        "<|begin|>",
        *(f"<|reserved_special_token_{i}|>" for i in range(8)),
      ],
      show_progress=False,
    ),
  )
  return tokenizer


def write_byte_bpe_gguf(path, tokenizer, pre="smollm", **fields):
  """Writes a byte-level BPE tokenizer as llama.cpp stores it."""
  saved = json.loads(tokenizer.to_str())
  tokens = sorted(saved["model"]["vocab"], key=saved["model"]["vocab"].get)
  special = {row["content"] for row in saved["added_tokens"]}
  writer = gguf.GGUFWriter(path, "llama")
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre(pre)
  writer.add_token_list(tokens)
  writer.add_token_types([3 if token in special else 1 for token in tokens])
  writer.add_token_merges([" ".join(m) for m in saved["model"]["merges"]])
  writer.add_bos_token_id(1)
  writer.add_eos_token_id(0)
  finish(writer, fields)
  return path


def finish(writer, fields):
  """Writes the flags of a tokenizer, and the file."""
  for name, value in fields.items():
    if value is not None:
      writer.add_bool(f"tokenizer.ggml.{name}", value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
