"""Entry point and error handling of all launch scripts."""

import sys
from collections.abc import Callable, Sequence

from .shell import LaunchError


def end(main: Callable[[Sequence[str]], int]) -> None:
  """Runs a script; errors and Ctrl-C become messages."""
  try:
    sys.exit(main(sys.argv[1:]))
  except LaunchError as error:
    print(f"launch: {error}", file=sys.stderr)
    sys.exit(error.status)
  except KeyboardInterrupt:
    print(
      "\nlaunch: interrupted. The run continues, and costs money: the same "
      "command reattaches to it, `--name=NAME --stop` ends it.",
      file=sys.stderr,
    )
    sys.exit(130)
