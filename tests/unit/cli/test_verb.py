"""How `calrec` ends: one line for a user's mistake, a traceback for a bug."""

import errno
import gc
import os
import signal
import subprocess
import sys
import time

import gin
import pytest

from calrec_jax.__main__ import VERBS, main
from calrec_jax.cli import checkpoint
from calrec_jax.cli.verb import BROKEN_PIPE_STATUS
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
    "calrec train: Validation.period = 0: must be at least 1, or None.\n"
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


def test_an_interrupt_that_python_drops_is_sent_again(monkeypatch, capfd):
  def collect(phase, info):
    gc.callbacks.remove(collect)
    signal.raise_signal(signal.SIGINT)

  def work(argv):
    gc.callbacks.append(collect)
    gc.collect()  # Here Python prints the interrupt and goes on.
    for _ in range(1000):
      time.sleep(0.01)
    return 0

  monkeypatch.setattr(checkpoint, "main", work)
  # A shell in the background ignores the signal.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    assert main(["checkpoint", "show", "x"]) == 130
  finally:
    signal.signal(signal.SIGINT, before)
  assert capfd.readouterr().err == "calrec checkpoint: interrupted.\n"


STOPPED = """
import atexit, os, sys, threading
from calrec_jax import __main__
atexit.register(print, "left", flush=True)
class Library:
  def __del__(self, write=os.write):
    write(1, b"unloaded")
library = Library()
__main__.verb.run = lambda *_: (
  threading.Timer(0.1, print, ["saved"]).start() or STATUS
)
sys.argv = ["calrec", "train"]
sys.exit(__main__.main())
"""


@pytest.mark.parametrize("status", [0, 83, 130])
def test_who_was_stopped_leaves_without_unloading(status):
  run = subprocess.run(
    [sys.executable, "-c", STOPPED.replace("STATUS", str(status))],
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == status
  assert run.stdout.split()[:2] == ["saved", "left"]
  assert ("unloaded" in run.stdout) == (status == 0)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches_with_commands_and_has_debug(verb, capsys):
  with pytest.raises(SystemExit):
    main([verb, "--help"])
  shown = capsys.readouterr().out
  assert f"  calrec {verb} " in shown
  assert "--debug" in shown


# The verb prints more than a pipe holds.
_PRINTS = """
import sys
from calrec_jax.__main__ import main
from calrec_jax.cli import checkpoint

def fail(argv):
  for number in range(50_000):
    print(number, chr(252) + chr(0xDCFF))
  return 0

checkpoint.main = fail
sys.exit(main(["checkpoint"]))
"""


@pytest.mark.parametrize("read", [0, 1, 100_000])
def test_a_reader_that_has_enough_is_no_error(read):
  run = subprocess.Popen(
    [sys.executable, "-c", _PRINTS],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  run.stdout.read(read)
  run.stdout.close()
  assert run.stderr.read() == b""
  run.stderr.close()
  assert run.wait() == BROKEN_PIPE_STATUS


def test_a_terminal_without_the_letters_gets_escapes():
  shown = subprocess.run(
    [sys.executable, "-c", _PRINTS],
    env=os.environ
    | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    capture_output=True,
    check=True,
  )
  assert shown.stdout.startswith(b"0 \\xfc\\udcff\n")
  assert shown.stderr == b""


def test_a_missing_file_names_the_folder_that_was_looked_in(
  monkeypatch, capsys
):
  error = FileNotFoundError(errno.ENOENT, "No such file or directory", "x.csv")
  failing(monkeypatch, error)
  assert main(["checkpoint", "show", "x"]) == 1
  assert f"(looked for {os.path.abspath('x.csv')})" in capsys.readouterr().err
