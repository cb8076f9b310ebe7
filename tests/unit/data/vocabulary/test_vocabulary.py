"""Training, writing and loading vocabularies without TensorFlow."""

import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.domain import prompt as prompt_lib
from calrec_jax.data.logs.log_files import LogFiles
from calrec_jax.data.vocabulary import files
from calrec_jax.data.vocabulary import trained as vocabulary_lib
from tests.fixtures import kinds_toys

PROMPT = prompt_lib.Prompt()
TEXTS = [
  f"Title: RICE CAKES {i} OZ. Category: SNACKS. Brand: National."
  for i in range(60)
]


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
  folder = tmp_path_factory.mktemp("log")
  (folder / "log.csv").write_text("user_id,item_id,timestamp\n")
  return domain_lib.Domain(
    name="toys",
    source=LogFiles(interactions=str(folder / "log.csv")),
    fields=(("Title", "t"), ("Category", "c"), ("Brand", "b")),
  )


@pytest.fixture(scope="module")
def trained(domain):
  return vocabulary_lib.TrainedSentencePiece(size=400).train(
    TEXTS, vocabulary_lib.symbols(PROMPT, [domain])
  )


@pytest.fixture(scope="module")
def vocabulary(trained, tmp_path_factory):
  folder = tmp_path_factory.mktemp("vocabularies") / "v"
  return files.write(str(folder), trained, vocabulary_lib.BEGIN)


@pytest.mark.parametrize("piece", PROMPT.pieces())
def test_every_piece_of_the_prompt_is_one_token(vocabulary, piece):
  assert len(vocabulary.encode(piece)) == 1


@pytest.mark.parametrize(
  "text",
  [*TEXTS[:3], "Tïtle: ☕ never seen 字", " a  b ", "Title: x\nTitle: y"],
)
def test_decoding_gives_the_text_back(vocabulary, text):
  ids = vocabulary.encode(text)
  assert vocabulary.decode(ids) == text
  assert vocabulary_lib.UNKNOWN not in ids
  assert vocabulary.encode_all([text, text]) == [ids, ids]


def test_labels_are_single_tokens(vocabulary):
  pieces = [vocabulary.piece(i) for i in vocabulary.encode(TEXTS[0])]
  assert pieces[0] == "Title:"
  assert ".\u2581Category:" in pieces
  assert ".\u2581Brand:" in pieces


def test_control_tokens_and_padding_write_nothing(vocabulary):
  ids = vocabulary.encode("Title: x")
  noisy = [vocabulary_lib.BEGIN, *ids, vocabulary_lib.PADDING]
  assert vocabulary.decode([*noisy, vocabulary.size + 7, -1]) == "Title: x"


def test_the_same_text_gives_the_same_bytes(domain, trained):
  again = vocabulary_lib.TrainedSentencePiece(size=400).train(
    TEXTS, vocabulary_lib.symbols(PROMPT, [domain])
  )
  assert again == trained


def test_a_size_that_does_not_fit_names_the_binding(domain):
  with pytest.raises(ValueError, match=r"TrainedSentencePiece\.size = 20"):
    vocabulary_lib.TrainedSentencePiece(size=20).train(TEXTS, PROMPT.pieces())


def test_a_size_below_the_characters_names_the_size_that_is_needed():
  said = r"characters alone need \d+\. Raise VOCABULARY_SIZE\.$"
  with pytest.raises(ValueError, match=said):
    vocabulary_lib.TrainedSentencePiece(size=20).train(["tea"], ())


def test_a_changed_model_is_refused(trained, tmp_path):
  folder = tmp_path / "v"
  files.write(str(folder), trained, None)
  model = folder / files.MODEL_FILE
  model.write_bytes(model.read_bytes() + b"\0")
  with pytest.raises(ValueError, match="does not match"):
    files.load(folder)
  model.unlink()
  with pytest.raises(FileNotFoundError, match="calrec data cache"):
    files.load(folder)


def test_writing_leaves_no_partial_file_and_keeps_what_is_there(
  trained, tmp_path
):
  folder = tmp_path / "v"
  files.write(str(folder), trained, 1)
  files.write(str(folder), trained, 1)
  assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_a_given_model(vocabulary, domain, tmp_path):
  given = vocabulary_lib.SentencePieceFile(path=vocabulary.model_file)
  model, begin = given.read()
  assert model == pathlib.Path(vocabulary.model_file).read_bytes()
  assert begin == vocabulary_lib.BEGIN
  without = vocabulary_lib.SentencePieceFile(
    path=vocabulary.model_file, begin=False
  )
  assert without.read()[1] is None
  assert given.fingerprint([domain], PROMPT) != without.fingerprint(
    [domain], PROMPT
  )


def test_the_fingerprint_follows_domains_prompt_and_options(domain):
  trained = vocabulary_lib.TrainedSentencePiece(size=400)
  first = trained.fingerprint([domain], PROMPT)
  assert first == trained.fingerprint([domain], prompt_lib.Prompt())
  assert first != trained.fingerprint([domain], prompt_lib.Prompt(next="+"))
  assert first != trained.fingerprint([], PROMPT)
  assert first != vocabulary_lib.TrainedSentencePiece(size=401).fingerprint(
    [domain], PROMPT
  )
  with pytest.raises(ValueError, match=r"TrainedSentencePiece\.domains"):
    vocabulary_lib.TrainedSentencePiece(domains=("other",)).reads([domain])


def test_of_many_texts_a_sample_is_trained_on(monkeypatch):
  trained = []
  monkeypatch.setattr(
    vocabulary_lib.TrainedSentencePiece,
    "train",
    lambda self, texts, symbols: trained.append(list(texts)) or b"",
  )
  monkeypatch.setattr(files, "write", lambda *args, **kwargs: None)
  made = [f"text {number}" for number in range(100)]
  prepared = types.SimpleNamespace(
    texts=[*made, made[0]],
    train_items=lambda: np.arange(101),
    events=types.SimpleNamespace(kind_names=()),
  )

  def make(limit):
    maker = vocabulary_lib.TrainedSentencePiece(max_texts=limit)
    maker.make("", (), prompt_lib.Prompt(), lambda domain, tokenizer: prepared)
    return trained.pop()

  monkeypatch.setattr(
    vocabulary_lib.TrainedSentencePiece, "reads", lambda self, domains: [None]
  )
  monkeypatch.setattr(vocabulary_lib, "symbols", lambda *_: [])
  assert make(None) == make(100) == made
  sample = make(10)
  assert sample == make(10)
  assert len(set(sample)) == 10
  assert [made.index(text) for text in sample] == sorted(
    made.index(text) for text in sample
  )
  assert sample != made[:10]
  with pytest.raises(ValueError, match=r"TrainedSentencePiece\.max_texts"):
    vocabulary_lib.TrainedSentencePiece(max_texts=0)


def test_the_limit_is_part_of_the_fingerprint_where_it_was_set(domain):
  def fingerprint(**options):
    maker = vocabulary_lib.TrainedSentencePiece(**options)
    return maker.fingerprint((domain,), prompt_lib.Prompt())

  assert len({fingerprint(), fingerprint(max_texts=None)}) == 2
  assert fingerprint(max_texts=200_000) == fingerprint()


def test_neither_vocabulary_nor_dataset_imports_tensorflow():
  code = (
    "import sys, calrec_jax.data.dataset, calrec_jax.data.vocabulary.trained;"
    "bad = {'tensorflow', 'seqio', 'tensorflow_datasets'} & set(sys.modules);"
    "sys.exit(f'imported {bad}' if bad else 0)"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_the_sentences_of_kinds_of_event_are_one_token_each(tmp_path):
  domain = kinds_toys.domain()
  trained = vocabulary_lib.TrainedSentencePiece(size=300)
  made = trained.make(
    str(tmp_path / "v"), [domain], PROMPT, lambda one, _: one.prepare()
  )
  tokens = PROMPT.tokenise(made, domain.prepare().kinds)
  sentences = (*tokens.first_of_kind, *tokens.next_of_kind)
  assert len(set(sentences)) == 6
  assert {len(sentence) for sentence in sentences} == {1}


@pytest.mark.parametrize("begin", [True, False])
def test_the_vocabulary_of_a_run_is_that_of_its_file(tmp_path, begin):
  model = vocabulary_lib.TrainedSentencePiece(size=300).train(["a b", "c"], [])
  (tmp_path / "m.model").write_bytes(model)
  path = str(tmp_path / "m.model")
  given = vocabulary_lib.SentencePieceFile(path=path, begin=begin)

  def make(vocabulary, name):
    folder = str(tmp_path / name)
    return vocabulary.make(folder, (), PROMPT, prepare=None)

  first = make(given, "first")
  run = vocabulary_lib.RunVocabulary(path=first.folder)
  again = make(run, "again")
  assert (first.begin is not None) == begin
  assert (again.begin, again.sha256) == (first.begin, first.sha256)
  assert run.fingerprint((), PROMPT) == given.fingerprint((), PROMPT)
  # Both are written by one function.
  assert type(run).make is type(given).make
