"""A published model takes the rows of its own vocabulary, and of no other."""

import numpy as np
import pytest

from calrec_jax.checkpoint import initial_parameters, vocabulary_check
from calrec_jax.checkpoint.store import CheckpointError
from calrec_jax.data.vocabulary import files, sentencepiece
from calrec_jax.models.pretrained import sources
from tests.fixtures import vocabulary_toys


@pytest.fixture(scope="module")
def theirs():
  return vocabulary_toys.sentencepiece_model()


class _Source(sources.HuggingFaceSource):
  """A folder whose weights are never read."""

  def __init__(self, path):
    self.path, self.num_tokens = path, 640
    self.norm_offset, self.shapes, self.ignored = 0.0, {}, []


def _source(folder, content):
  folder.mkdir()
  if content is not None:
    (folder / "tokenizer.model").write_bytes(content)
  return _Source(folder)


def _vocabulary(folder, content, row_map=None, full=None, kind="sentencepiece"):
  full_size = files.open_model(kind, full or content).size
  return files.write(
    str(folder),
    content,
    None,
    kind=kind,
    origin=files.Origin(full_size, "of the full one"),
    row_map=None if row_map is None else np.array(row_map),
  )


def test_its_own_vocabulary_whole_and_pruned(tmp_path, theirs):
  from calrec_jax.data.vocabulary import sentencepiece_rules

  source = _source(tmp_path / "model", theirs)
  whole = _vocabulary(tmp_path / "whole", theirs)
  assert not vocabulary_check.difference(source, whole)
  row_map = np.arange(0, whole.size - 30)
  rules = sentencepiece_rules.SentencePieceRules(theirs)
  pruned = _vocabulary(tmp_path / "cut", rules.select(row_map), row_map, theirs)
  assert pruned.size < whole.size
  assert not vocabulary_check.difference(source, pruned)


def test_names_of_unused_tokens_do_not_count(tmp_path, theirs):
  renamed = [f"<reserved{number}>" for number in range(20)]
  other = vocabulary_toys.sentencepiece_model(control_symbols=renamed)
  source = _source(tmp_path / "model", theirs)
  assert not vocabulary_check.difference(
    source, _vocabulary(tmp_path / "other", other)
  )


def test_rows_of_another_models_tokens_are_refused(tmp_path, theirs):
  # As many tokens at most, so that every row exists.
  tokenizer = vocabulary_toys.byte_bpe().to_str().encode()
  vocabulary = _vocabulary(tmp_path / "bpe", tokenizer, kind="byte_bpe")
  assert vocabulary.size <= sentencepiece.SentencePieceModel(theirs).size
  source = _source(tmp_path / "model", theirs)
  fault = vocabulary_check.difference(source, vocabulary)
  assert "row " in fault
  assert "would be read for" in fault
  parent = initial_parameters.PretrainedSource(source)
  with pytest.raises(CheckpointError, match="VOCABULARY_SOURCE"):
    parent.require_vocabulary(vocabulary)
  # Nothing tells them apart where the model has no tokenizer.
  bare = _source(tmp_path / "bare", None)
  assert not vocabulary_check.difference(bare, vocabulary)


def test_a_larger_vocabulary_is_refused(tmp_path, theirs):
  vocabulary = _vocabulary(tmp_path / "whole", theirs)
  source = _source(tmp_path / "model", None)
  source.num_tokens = vocabulary.size - 1
  fault = vocabulary_check.difference(source, vocabulary)
  assert f"{vocabulary.size:,} tokens" in fault
  assert f"{source.num_tokens:,} rows" in fault
