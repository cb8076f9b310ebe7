"""What every verb has: its parser, its `--help`, and how its errors end."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence

from calrec_jax.errors import CalrecError

# What shells report for a program that SIGINT ended.
INTERRUPTED_STATUS = 130
# What gin appends to an error in a class or function that it configures.
_GIN_NOTE = "\n  In call to configurable"
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


def run(verb: str, argv: Sequence[str]) -> int:
  """Runs a module of `calrec_jax.cli` and returns the exit status.

  A user's mistake ends in one message on stderr; a traceback would hide it. Any
  other exception is a bug and is raised with a note that says so.
  """
  debug = "--debug" in argv
  argv = [argument for argument in argv if argument != "--debug"]
  try:
    return importlib.import_module(f"calrec_jax.cli.{verb}").main(argv)
  except (CalrecError, OSError) as error:
    message = str(error).partition(_GIN_NOTE)[0]
    _show(f"calrec {verb}: {message}", debug)
    return 1
  except KeyboardInterrupt:
    _show(f"calrec {verb}: interrupted.", debug)
    return INTERRUPTED_STATUS
  except Exception as error:
    error.add_note(_BUG)
    raise


def _show(message: str, debug: bool) -> None:
  if debug:
    traceback.print_exc()
  else:
    print(message, file=sys.stderr)
