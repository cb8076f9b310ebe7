"""The console script `calrec`: one verb, one module."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from calrec_jax import config

VERBS = {  # Each is a module of `calrec_jax.cli`.
  "data": "build, cache and describe datasets",
  "train": "train the stages of a recipe",
  "eval": "measure recommenders beside the baselines",
  "infer": "recommend items to users",
  "compile": "say what a recipe costs on a TPU slice",
  "checkpoint": "show and compare checkpoints",
}

_USAGE = """\
usage: calrec VERB [--gin_file=FILE] [--gin.NAME=VALUE] [--dry_run] ...

Recommends the next item with a language model.

{verbs}

`calrec VERB --help` says more. A first run, on a CPU, in minutes:
  calrec train --gin_file=recipes/quickstart.gin
  calrec eval --gin_file=recipes/quickstart.gin
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a verb.

  Args:
    argv: the command line without the program's name.

  Returns:
    The exit status: 0, 1 for an error the user can mend, 2 for wrong usage.
  """
  argv = list(sys.argv[1:] if argv is None else argv)
  if not argv or argv[0] in ("-h", "--help", "help"):
    verbs = "\n".join(f"  {verb:<12}{text}" for verb, text in VERBS.items())
    print(_USAGE.format(verbs=verbs), end="")
    return 0 if argv else 2
  if argv[0] not in VERBS:
    print(
      f"calrec: there is no verb {argv[0]!r}."
      f"{config.nearest(argv[0], VERBS)} See `calrec --help`.",
      file=sys.stderr,
    )
    return 2
  module = importlib.import_module(f"calrec_jax.cli.{argv[0]}")
  try:
    return module.main(argv[1:])
  except Exception as error:
    if not isinstance(error, _mendable()):
      raise
    # What a user can mend is said in one message; a traceback would hide it.
    print(f"calrec {argv[0]}: {error}", file=sys.stderr)
    return 1


def _mendable() -> tuple[type[Exception], ...]:
  # Imported here: `calrec --help` is to be quick.
  from calrec_jax.data.cache.files import CacheError
  from calrec_jax.data.domain.leakage import LeakageError

  return (
    ValueError,
    OSError,
    FloatingPointError,
    ModuleNotFoundError,
    CacheError,
    LeakageError,
  )


if __name__ == "__main__":
  sys.exit(main())
