"""Gin files as editors write them, from wherever they are included."""

import gin
import pytest

from calrec_jax import config

_TEXT = 'include "recipes/own_log.gin"\nINTERACTIONS = "käufe.csv"\n'


@pytest.fixture(autouse=True)
def clean_gin():
  yield
  gin.clear_config()


def apply(*files, bindings=()):
  config.Configuration(tuple(map(str, files)), tuple(bindings)).apply()


def refused(*files, bindings=()):
  with pytest.raises(config.ConfigurationError) as raised:
    apply(*files, bindings=bindings)
  return str(raised.value)


@pytest.mark.parametrize(
  "data",
  [
    _TEXT.encode("utf-8-sig"),
    _TEXT.encode("utf-16"),
    _TEXT.replace("\n", "\r\n").encode(),
    _TEXT.replace("\n", "\r").encode(),
  ],
  ids=["byte order mark", "UTF-16", "CRLF", "CR"],
)
def test_any_editor_may_have_written_it(tmp_path, data):
  file = tmp_path / "mine.gin"
  file.write_bytes(data)
  apply(file)
  assert config.macro("INTERACTIONS") == "käufe.csv"


def test_another_encoding_is_named_with_file_and_line(tmp_path):
  file = tmp_path / "mine.gin"
  file.write_bytes(_TEXT.encode("latin-1"))
  assert refused(file) == (
    f"{file}:2 is not UTF-8 (byte 0xe4): save the file in UTF-8."
  )


def test_includes_are_beside_the_including_file(tmp_path, monkeypatch):
  folder = tmp_path / "sub" / "deeper"
  folder.mkdir(parents=True)
  (folder.parent / "mine.gin").write_text('include "deeper/log.gin"\n')
  (folder / "log.gin").write_text('include "names.gin"\n' + _TEXT)
  (folder / "names.gin").write_text('MODEL_DIR = "runs/here"\n')
  # Of the same name, but in the working directory.
  (tmp_path / "names.gin").write_text('MODEL_DIR = "runs/there"\n')
  monkeypatch.chdir(tmp_path)
  apply("sub/mine.gin")
  assert config.macro("INTERACTIONS") == "käufe.csv"
  assert str(folder) in map(str, config.files.folders_read())


def test_the_nearer_include_is_read(tmp_path, monkeypatch):
  (tmp_path / "sub").mkdir()
  for folder, steps in ((tmp_path, 3), (tmp_path / "sub", 4)):
    (folder / "steps.gin").write_text(f"TRAIN_STEPS = {steps}\n")
  (tmp_path / "sub" / "mine.gin").write_text(_TEXT + 'include "steps.gin"\n')
  monkeypatch.chdir(tmp_path)
  apply("sub/mine.gin")
  assert config.macro("TRAIN_STEPS") == 4
  apply("sub/mine.gin", "steps.gin")  # Named on the command line.
  assert config.macro("TRAIN_STEPS") == 3


@pytest.mark.parametrize(
  ("binding", "said"),
  [
    ("MODEL_DIR=runs/x", """write --gin.MODEL_DIR="'runs/x'\""""),
    ("MODEL_DIR=~/runs", """write --gin.MODEL_DIR="'~/runs'\""""),
    ("Domain.split=leave_one_out", "--gin.Domain.split=\"'leave_one_out'\""),
    ("USE_CACHED_TASKS=true", "Write --gin.USE_CACHED_TASKS=True"),
    ("ITEMS=null", "Write --gin.ITEMS=None"),
    ("Validation.metrics=(recall@1,)", "texts need quotes inside"),
    ("Validation.metrics=('recall@1'", "Check its brackets"),
    ("MODEL_DIR=", "Give one after the equals sign"),
  ],
)
def test_a_flag_without_inner_quotes_shows_the_flag_that_works(binding, said):
  message = refused("recipes/own_log.gin", bindings=[binding])
  assert said in message
  assert "\n" not in message


def test_the_flag_that_is_shown_works():
  message = refused("recipes/own_log.gin", bindings=["MODEL_DIR=runs/x"])
  flag = message.rpartition("write --gin.")[2]
  # As a shell hands it over.
  name, _, value = flag.partition("=")
  apply(
    "recipes/own_log.gin",
    bindings=[f"{name}={value.strip(chr(34))}", "INTERACTIONS='p.csv'"],
  )
  assert config.macro("MODEL_DIR") == "runs/x"


@pytest.mark.parametrize(
  ("line", "said"),
  [
    ("MODEL_DIR = runs/x", 'a text needs quotes; write MODEL_DIR = "runs/x"'),
    ("USE_CACHED_TASKS = true", "write USE_CACHED_TASKS = True"),
    ("MODEL_DIR = “runs/x”", "write straight quotes"),
  ],
)
def test_a_line_of_a_file_is_named(tmp_path, line, said):
  file = tmp_path / "mine.gin"
  file.write_text(f"{_TEXT}{line}\n")
  message = refused(file)
  assert message.startswith(f"{file}:3: {line}: ")
  assert said in message


def test_a_file_beside_the_gin_file_is_pointed_at(tmp_path, monkeypatch):
  (tmp_path / "mine.gin").write_text(_TEXT)
  (tmp_path / "käufe.csv").write_text("x\n")
  apply(tmp_path / "mine.gin")
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  monkeypatch.chdir(elsewhere)
  assert config.beside("käufe.csv") == str(tmp_path / "käufe.csv")
  assert config.beside("other.csv") is None
  assert config.beside(str(tmp_path / "käufe.csv")) is None
  said = config.looked_for("käufe.csv")
  assert str(elsewhere / "käufe.csv") in said
  assert str(tmp_path / "käufe.csv") in said
  monkeypatch.chdir(tmp_path)
  assert config.beside("käufe.csv") is None
