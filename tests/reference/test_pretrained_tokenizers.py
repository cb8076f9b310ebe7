"""The packaged models' tokenizers against the published ones.

Item texts come from the folders in `$CALREC_TEST_DATA`, each with an
`items.jsonl.gz`; Gemma's own SentencePiece model, where there is one, from
`$CALREC_GEMMA_TOKENIZER`.
"""

import gzip
import itertools
import json
import os
import pathlib

import numpy as np
import pytest
import sentencepiece

from calrec_jax.data.vocabulary import (
  byte_bpe,
  byte_bpe_rules,
  files,
  pretrained,
  pruning,
  sentencepiece_rules,
)
from calrec_jax.weights import gguf_file, packages

pytestmark = pytest.mark.pretrained

GEMMA, SMOLLM = "gemma3-270m", "smollm2-135m-instruct"
NUM_TEXTS = 10_000
NUM_MERGED_BY_HAND = 300  # A plain loop takes milliseconds a text.


def package(name):
  try:
    path = packages.resolve(name)
  except packages.WeightsError as error:
    pytest.skip(str(error))
  return path, pretrained.read(name)


@pytest.fixture(scope="module")
def texts():
  folder = os.environ.get("CALREC_TEST_DATA")
  if not folder:
    pytest.skip("set CALREC_TEST_DATA to a folder of domains' folders")
  paths = sorted(pathlib.Path(folder).glob("*/items.jsonl.gz"))
  per_file = -(-NUM_TEXTS // len(paths))
  found = []
  for path in paths:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
      for line in itertools.islice(lines, per_file):
        fields = json.loads(line).items()
        found.append(" ".join(f"{k.title()}: {v}." for k, v in fields))
  return found[:NUM_TEXTS]


def test_gemma_against_the_published_model(texts):
  _, full = package(GEMMA)
  given = os.environ.get("CALREC_GEMMA_TOKENIZER")
  if not given:
    pytest.skip("set CALREC_GEMMA_TOKENIZER to Gemma 3's tokenizer.model")
  reference = sentencepiece.SentencePieceProcessor(model_file=given)
  model = files.open_model(full.kind, full.content)
  assert full.begin == reference.bos_id()
  assert model.size == reference.vocab_size()
  assert model.encode_all(texts) == reference.encode(texts)


class MergedByHand:
  """SentencePiece's BPE as a plain loop over a GGUF file's pieces."""

  def __init__(self, fields):
    self.pieces, self.scores, types = (
      fields[f"tokenizer.ggml.{name}"]
      for name in ("tokens", "scores", "token_type")
    )
    self.normal, self.markers = (
      {p: i for i, p in enumerate(self.pieces) if types[i] == kind}
      for kind in (1, 4)
    )
    self.longest = max(map(len, self.markers))

  def split(self, text):
    """Symbols, and whether each may still be merged."""
    at = 0
    while at < len(text):
      for length in range(min(self.longest, len(text) - at), 0, -1):
        if text[at : at + length] in self.markers:
          yield text[at : at + length], False
          at += length
          break
      else:
        yield text[at].replace(" ", "\u2581"), True
        at += 1

  def merge(self, text):
    symbols = list(self.split(text))
    while True:
      pairs = [
        (-self.scores[self.normal[a + b]], at)
        for at, ((a, free), (b, also)) in enumerate(itertools.pairwise(symbols))
        if free and also and a + b in self.normal
      ]
      if not pairs:
        return symbols
      at = min(pairs)[1]
      symbols[at : at + 2] = [(symbols[at][0] + symbols[at + 1][0], True)]

  def encode(self, text):
    ids = []
    for symbol, free in self.merge(text):
      known = self.normal if free else self.markers
      if symbol in known:
        ids.append(known[symbol])
      else:
        names = (f"<0x{byte:02X}>" for byte in symbol.encode())
        ids += [self.pieces.index(name) for name in names]
    return ids


def test_gemma_against_merging_by_hand(texts):
  path, full = package(GEMMA)
  assert (full.begin, full.adds_begin) == (2, True)
  reference = MergedByHand(gguf_file.GgufFile(path).fields)
  odd = ["   x", "a  b\n\n c", "字☕\U0001f9ff naïve", "\t x"]
  chosen = [*texts[:: len(texts) // NUM_MERGED_BY_HAND], *odd]
  model = files.open_model(full.kind, full.content)
  assert model.encode_all(chosen) == [reference.encode(t) for t in chosen]


def test_smollm2_against_transformers(texts):
  transformers = pytest.importorskip("transformers")
  from tokenizers import pre_tokenizers

  path, full = package(SMOLLM)
  reference = transformers.AutoTokenizer.from_pretrained(
    str(path.parent), gguf_file=path.name
  )
  # Its reading of GGUF leaves out that digits are cut apart, as llama.cpp does:
  # "  1" and " ½" would become other tokens.
  reference.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ]
  )
  expected = reference(texts, add_special_tokens=False)["input_ids"]
  model = byte_bpe.ByteBpeModel(full.content)
  assert not full.adds_begin
  assert model.encode_all(texts) == expected
  assert [model.decode(ids) for ids in expected] == texts


@pytest.mark.parametrize("name", [GEMMA, SMOLLM])
def test_pruned_to_a_half_of_the_texts(name, texts):
  _, full = package(name)
  model = files.open_model(full.kind, full.content)
  rules = (
    sentencepiece_rules.SentencePieceRules(full.content)
    if full.kind == files.SENTENCEPIECE
    else byte_bpe_rules.ByteBpeRules(full.content)
  )
  seen = pruning.Seen(model)
  seen.add([*texts[::2], "\n"])
  row_map = pruning.choose(rules, seen.used())
  pruned = files.open_model(full.kind, rules.select(row_map))
  pruning.verify(seen, pruned, row_map)
  assert pruned.size == len(row_map)
  assert len(row_map) % pruning.MULTIPLE == 0
  assert len(pruned.encode("\n")) == 1
  # What was not counted is split further where it must be, and never lost.
  others = pruned.encode_all(texts[1::2])
  assert [pruned.decode(ids) for ids in others] == texts[1::2]
  whole = model.encode_all(texts[1::2])
  same = [
    np.array_equal(row_map[ids], before)
    for ids, before in zip(others, whole, strict=True)
  ]
  assert 0.5 < np.mean(same) < 1
