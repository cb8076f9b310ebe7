"""Pruned tokenizers make the tokens of the full ones, renumbered."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from calrec_jax.data.vocabulary import files, pruning
from calrec_jax.data.vocabulary.byte_bpe_rules import ByteBpeRules
from calrec_jax.data.vocabulary.sentencepiece_rules import SentencePieceRules
from tests.fixtures import vocabulary_toys as toys

KINDS = ("sentencepiece", "unigram", "smollm", "llama-bpe")


class Pruned:
  """A tokenizer, cut to the tokens of some texts."""

  def __init__(self, name, texts, multiple=pruning.MULTIPLE):
    if name in ("sentencepiece", "unigram"):
      self.kind = files.SENTENCEPIECE
      kind = "bpe" if name == "sentencepiece" else name
      content = toys.sentencepiece_model(model_type=kind)
      self.rules = SentencePieceRules(content)
    else:
      self.kind = files.BYTE_BPE
      content = toys.byte_bpe(name).to_str().encode()
      self.rules = ByteBpeRules(content)
    self.full = files.open_model(self.kind, content)
    self.seen = pruning.Seen(self.full)
    self.seen.add(texts)
    self.cut(multiple)

  def cut(self, multiple):
    self.row_map = pruning.choose(self.rules, self.seen.used(), multiple)
    self.content = self.rules.select(self.row_map)
    self.model = files.open_model(self.kind, self.content)


@pytest.fixture(scope="module", params=KINDS)
def pruned(request):
  return Pruned(request.param, toys.texts(10), multiple=8)


@pytest.fixture(scope="module")
def models():
  return {name: Pruned(name, ["salted oil"], multiple=1) for name in KINDS}


def test_what_was_seen_keeps_its_tokens(pruned):
  pruning.verify(pruned.seen, pruned.model, pruned.row_map)
  assert pruned.model.size == len(pruned.row_map) < pruned.full.size
  assert len(pruned.row_map) % 8 == 0


def test_the_map_is_ascending_and_keeps_the_pieces(pruned):
  assert pruned.row_map.dtype == np.int32
  assert (np.diff(pruned.row_map) > 0).all()
  for token, old in enumerate(pruned.row_map.tolist()):
    assert pruned.model.piece(token) == pruned.full.piece(old)


def test_any_text_survives(pruned):
  texts = toys.texts(200, seed=2)
  encoded = pruned.model.encode_all(texts)
  assert [pruned.model.decode(ids) for ids in encoded] == texts


def test_every_retained_token_can_be_merged(pruned):
  row_map = set(pruned.row_map.tolist())
  for token in row_map:
    assert row_map.issuperset(pruned.rules.path(token) or [])


def test_control_and_byte_tokens_stay_and_spare_ones_go(pruned):
  pieces = {pruned.model.piece(i) for i in range(pruned.model.size)}
  if pruned.kind == files.SENTENCEPIECE:
    assert pruned.row_map[:4].tolist() == [0, 1, 2, 3]
    assert pieces.issuperset(
      {*toys.MARKERS, *map("<0x{:02X}>".format, range(256))}
    )
    assert pieces.isdisjoint(toys.SPARE)
  else:
    assert pieces.issuperset({"<|endoftext|>", "<|begin|>"})
    alphabet = toys.pre_tokenizers.ByteLevel.alphabet()
    assert pieces.issuperset(alphabet)
    assert "<|reserved_special_token_0|>" not in pieces


def test_it_is_filled_with_what_is_merged_first(pruned):
  pruned.cut(1)
  least = set(pruned.row_map.tolist())
  pruned.cut(4)
  added = set(pruned.row_map.tolist()) - least
  assert len(pruned.row_map) % 4 == 0
  assert least.issubset(pruned.row_map.tolist())
  order = pruned.rules.order.tolist()
  left = [token for token in order if token not in least]
  assert added == set(left[: len(added)])


def test_nothing_is_left_to_fill_up_with(pruned):
  pruned.cut(10**6)
  spare = pruned.full.size - len(pruned.row_map)
  assert 0 <= spare <= len(toys.SPARE)
  pruning.verify(pruned.seen, pruned.model, pruned.row_map)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  name=st.sampled_from(KINDS),
  texts=st.lists(
    st.text(
      st.one_of(
        st.sampled_from("abcdeghilmnoprst  ½é\n'.123"),
        st.characters(exclude_categories=["Cs"]),
      ),
      max_size=30,
    )
    | st.lists(st.sampled_from(toys.WORDS), max_size=6).map(" ".join),
    max_size=6,
  ),
)
def test_any_corpus_keeps_its_tokens(models, name, texts):
  chosen = models[name]
  chosen.seen = pruning.Seen(chosen.full)
  chosen.seen.add(texts)
  chosen.cut(1)
  pruning.verify(chosen.seen, chosen.model, chosen.row_map)


def test_a_difference_is_refused(pruned):
  pruned.cut(8)
  seen = pruning.Seen(pruned.full)
  seen.add(["green tea"])
  seen.tokens["green tea"] = seen.tokens["green tea"][::-1]
  with pytest.raises(ValueError, match="PRUNE_VOCABULARY"):
    pruning.verify(seen, pruned.model, pruned.row_map)


def test_without_its_path_a_token_is_lost():
  chosen = Pruned("sentencepiece", ["salted"], multiple=1)
  used = chosen.seen.used().tolist()
  bare = np.flatnonzero(
    chosen.rules.always | np.isin(range(chosen.rules.size), used)
  )
  model = files.open_model(chosen.kind, chosen.rules.select(bare))
  with pytest.raises(ValueError, match="salted"):
    pruning.verify(chosen.seen, model, bare)
