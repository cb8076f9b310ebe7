"""What every verb has: its parser, its `--help`, and how its errors end."""

from __future__ import annotations

import _thread
import argparse
import atexit
import contextlib
import importlib
import io
import os
import select
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from calrec_jax import config
from calrec_jax.errors import CalrecError

# What shells report for a program that SIGINT ended.
INTERRUPTED_STATUS = 130
_INTERRUPT_AGAIN_SECONDS = 0.05
# Likewise SIGPIPE.
BROKEN_PIPE_STATUS = 141
# What gin appends to an error in a class or function that it configures.
_GIN_NOTE = "\n  In call to configurable"
_SET_UTF_8 = (
  "file names with other letters are not found; set PYTHONUTF8=1, or LC_ALL to "
  "a UTF-8 locale"
)
_BUG = (
  "This looks like a bug in calrec_jax. Please report it with this traceback "
  "and the command that you ran."
)


def parser(
  verb: str, description: str | None, epilog: str
) -> argparse.ArgumentParser:
  """A verb's parser, with the flag that `run` reads.

  Args:
    verb: Words after `calrec`.
    description: Docstring of the verb's module.
    epilog: Text after the flags: what the verb does, with commands to copy.
  """
  text = (description or "").partition(": ")[2]
  parser = argparse.ArgumentParser(
    prog=f"calrec {verb}",
    description=text[:1].upper() + text[1:],
    epilog=epilog,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--debug",
    action="store_true",
    help="show the traceback of every error, also of wrong settings and input",
  )
  return parser


@contextlib.contextmanager
def output() -> Iterator[None]:
  """Lets any terminal show any text, and any pipe be closed early.

  Characters that the terminal's encoding lacks are written as escapes. Whoever
  reads the output may stop: `calrec data card | head -1` ends without a word.

  Raises:
    SystemExit: With the status of a broken pipe.
  """
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")
  broken = False
  try:
    yield
  except BrokenPipeError:
    broken = _drop_broken_pipes()
    if not broken:  # Of another pipe, such as a worker's.
      raise
  finally:
    # What is still in a buffer would fail when the interpreter ends.
    broken = _drop_broken_pipes() or broken
    if broken:
      raise SystemExit(BROKEN_PIPE_STATUS)


@contextlib.contextmanager
def _interrupts_heard() -> Iterator[None]:
  """Sends Ctrl-C again where Python would drop it.

  An exception in a callback of the garbage collector, which JAX has, or in a
  finalizer is printed and forgotten, a KeyboardInterrupt too.
  """
  before = sys.unraisablehook

  def hook(unraisable: Any) -> None:
    if issubclass(unraisable.exc_type, Exception):
      before(unraisable)
    elif issubclass(unraisable.exc_type, KeyboardInterrupt):
      # Later, when the callback has ended.
      again = threading.Timer(_INTERRUPT_AGAIN_SECONDS, _thread.interrupt_main)
      again.daemon = True
      again.start()

  sys.unraisablehook = hook
  try:
    yield
  finally:
    sys.unraisablehook = before


def _drop_broken_pipes() -> bool:
  """Flushes both streams; one that nobody reads goes nowhere from now on."""
  broken = False
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(ValueError, OSError):  # Closed, full, or a test's.
      number = stream.fileno()
      poll = select.poll()
      poll.register(number, select.POLLERR)
      with contextlib.suppress(BrokenPipeError):
        stream.flush()
      if any(events & select.POLLERR for _, events in poll.poll(0)):
        broken = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
  return broken


def run(verb: str, argv: Sequence[str]) -> int:
  """Runs a module of `calrec_jax.cli` and returns the exit status.

  A user's mistake ends in one message on stderr; a traceback would hide it. Any
  other exception is a bug and is raised with a note that says so.
  """
  debug = "--debug" in argv
  argv = [argument for argument in argv if argument != "--debug"]
  try:
    with _interrupts_heard():
      return importlib.import_module(f"calrec_jax.cli.{verb}").main(argv)
  except BrokenPipeError:
    raise
  except UnicodeEncodeError as error:
    if error.encoding.lower() not in ("ascii", "latin-1"):
      error.add_note(_BUG)
      raise
    _show(
      f"calrec {verb}: the locale's encoding is {error.encoding}, which has no "
      f"{error.object[error.start : error.end]!a}: {_SET_UTF_8}.",
      debug,
    )
    return 1
  except (CalrecError, OSError) as error:
    message = str(error).partition(_GIN_NOTE)[0]
    if isinstance(error, FileNotFoundError) and error.filename is not None:
      message += config.looked_for(os.fsdecode(error.filename))
    encoding = sys.getfilesystemencoding()
    if not message.isascii() and encoding.lower() == "ascii":
      message += f" (As the locale's encoding is {encoding}, {_SET_UTF_8}.)"
    _show(f"calrec {verb}: {message}", debug)
    return 1
  except KeyboardInterrupt:
    _show(f"calrec {verb}: interrupted.", debug)
    return INTERRUPTED_STATUS
  except Exception as error:
    error.add_note(_BUG)
    raise


def end_if_stopped(status: int) -> None:
  """Ends a process that a signal stopped, with the status that says so.

  Native libraries whose import or work was cut off can crash when they are
  unloaded, and launchers would see a crash instead of a preemption.

  Args:
    status: Exit status of the verb. With 0, 1 and 2, those of work that came to
      an end of its own, nothing happens.
  """
  if status in (0, 1, 2):
    return
  # What Python does before it unloads anything.
  threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
  atexit._run_exitfuncs()
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(ValueError, OSError):
      stream.flush()
  os._exit(status)


def _show(message: str, debug: bool) -> None:
  if debug:
    traceback.print_exc()
  else:
    print(message, file=sys.stderr)
