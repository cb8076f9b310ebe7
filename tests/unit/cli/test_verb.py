"""How `calrec` ends: one line for a user's mistake, a traceback for a bug."""

import errno

import gin
import pytest

from calrec_jax.__main__ import VERBS, main
from calrec_jax.cli import checkpoint
from calrec_jax.errors import InputError


def failing(monkeypatch, error):
  def fail(argv):
    raise error

  monkeypatch.setattr(checkpoint, "main", fail)


@pytest.mark.parametrize(
  "error",
  [
    InputError("Stage.steps = 0: must be at least 1."),
    OSError(errno.ENOSPC, "No space left on device"),
  ],
)
def test_a_mistake_of_the_users_is_one_line(monkeypatch, capsys, error):
  failing(monkeypatch, error)
  assert main(["checkpoint", "show", "x"]) == 1
  assert capsys.readouterr().err == f"calrec checkpoint: {error}\n"


def test_a_wrong_setting_is_one_line(capsys):
  flags = ["--gin_file=recipes/quickstart.gin", "--gin.MODEL_DIR='here'"]
  assert main(["train", *flags, "--gin.Validation.period=0"]) == 1
  assert capsys.readouterr().err == (
    "calrec train: Validation.period = 0: must be at least 1.\n"
  )
  gin.clear_config()


def test_debug_shows_the_traceback_of_a_mistake(monkeypatch, capsys):
  failing(monkeypatch, InputError("Stage.steps = 0: must be at least 1."))
  assert main(["checkpoint", "show", "x", "--debug"]) == 1
  shown = capsys.readouterr().err
  assert shown.startswith("Traceback")
  assert "raise error" in shown


@pytest.mark.parametrize("error", [ValueError("oops"), RuntimeError("oops")])
def test_a_bug_is_raised_with_a_request_to_report_it(monkeypatch, error):
  failing(monkeypatch, error)
  with pytest.raises(type(error), match="oops") as raised:
    main(["checkpoint", "show", "x"])
  assert "report it" in raised.value.__notes__[0]


def test_an_interrupted_verb_says_so(monkeypatch, capsys):
  failing(monkeypatch, KeyboardInterrupt())
  assert main(["checkpoint", "show", "x"]) == 130
  assert capsys.readouterr().err == "calrec checkpoint: interrupted.\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches_with_commands_and_has_debug(verb, capsys):
  with pytest.raises(SystemExit):
    main([verb, "--help"])
  shown = capsys.readouterr().out
  assert f"  calrec {verb} " in shown
  assert "--debug" in shown
