"""How every launch script begins and ends."""

import sys
from collections.abc import Callable, Sequence

from .shell import LaunchError


def end(main: Callable[[Sequence[str]], int]) -> None:
  """Runs a script; an error is one message, Ctrl-C says what goes on."""
  try:
    sys.exit(main(sys.argv[1:]))
  except LaunchError as error:
    print(f"launch: {error}", file=sys.stderr)
    sys.exit(error.status)
  except KeyboardInterrupt:
    print(
      "\nlaunch: left. What was started goes on, and costs: the same command "
      "finds it again, `--name=NAME --stop` ends it.",
      file=sys.stderr,
    )
    sys.exit(130)
