"""The console script `calrec`: one verb, one module of `calrec_jax.cli`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from calrec_jax.cli import verb
from calrec_jax.errors import nearest

VERBS = {
  "data": "build, cache and describe datasets",
  "train": "train the stages of a recipe",
  "eval": "evaluate recommenders and baselines, compare runs",
  "infer": "recommend items to users",
  "compile": "estimate what a recipe costs on a TPU slice",
  "checkpoint": "show, compare and convert checkpoints",
}

_USAGE = """\
usage: calrec VERB [--gin_file=FILE] [--gin.NAME=VALUE] [--dry_run] ...

Recommends the next item with a language model.

{verbs}

`calrec VERB --help` shows flags and examples. A first run, minutes on a CPU:
  calrec train --gin_file=recipes/quickstart.gin
  calrec eval --gin_file=recipes/quickstart.gin
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a verb of the command line, by default the process's.

  Returns:
    The exit status: 0, 1 for an error that the user can fix, 2 for wrong usage.
  """
  with verb.output():
    status = _run(list(sys.argv[1:] if argv is None else argv))
  if argv is None:
    verb.end_if_stopped(status)
  return status


def _run(argv: Sequence[str]) -> int:
  if not argv or argv[0] in ("-h", "--help", "help"):
    verbs = "\n".join(f"  {name:<12}{text}" for name, text in VERBS.items())
    print(_USAGE.format(verbs=verbs), end="")
    return 0 if argv else 2
  if argv[0] not in VERBS:
    print(
      f"calrec: there is no verb {argv[0]!r}."
      f"{nearest(argv[0], VERBS)} See `calrec --help`.",
      file=sys.stderr,
    )
    return 2
  return verb.run(argv[0], list(argv[1:]))


if __name__ == "__main__":
  sys.exit(main())
