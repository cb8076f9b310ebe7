"""Runs commands, each printed first in a form that can be pasted into a shell.

Commands are lists of arguments throughout: no string is ever passed to a local
shell.
"""

import dataclasses
import shlex
import subprocess
import sys
from collections.abc import Sequence

_INSTALL = {
  "gcloud": "Install the Google Cloud CLI "
  "(https://cloud.google.com/sdk/docs/install), then `gcloud auth login`.",
  "kubectl": "Install it with `gcloud components install kubectl`, then "
  "`gcloud container clusters get-credentials CLUSTER`.",
  "sbatch": "Run this on a login node of the Slurm cluster.",
  "scancel": "Run this on a login node of the Slurm cluster.",
  "ssh": "Install an OpenSSH client.",
  "scp": "Install an OpenSSH client.",
  "tar": "Install GNU tar.",
}


class LaunchError(Exception):
  """An error that ends a launch, with the remedy.

  Attributes:
    status: Exit status of the launcher.
  """

  def __init__(self, message: str, status: int = 1):
    """Takes the message and the exit status."""
    super().__init__(message)
    self.status = status


@dataclasses.dataclass(frozen=True)
class Answer:
  """The exit status and both outputs of a command."""

  status: int
  stdout: str = ""
  stderr: str = ""


class Shell:
  """Prints commands and runs them; a dry run only prints them."""

  def __init__(self, *, dry_run: bool = False):
    """Takes whether commands are only printed."""
    self.dry_run = dry_run

  def say(self, text: str) -> None:
    """Prints a status line."""
    print(f"== {text}", flush=True)

  def warn(self, text: str) -> None:
    """Prints a warning."""
    print(f"== {text}", file=sys.stderr, flush=True)

  def run(self, argv: Sequence[str]) -> int:
    """Runs a command that uses the terminal directly.

    Returns:
      Its exit status; 0 in a dry run.
    """
    self._show(argv)
    if self.dry_run:
      return 0
    return self._started(argv, stdin=subprocess.DEVNULL).returncode

  def check(self, argv: Sequence[str], otherwise: str) -> None:
    """Runs a command that must succeed.

    Raises:
      LaunchError: If it fails, with the message `otherwise`.
    """
    status = self.run(argv)
    if status:
      raise LaunchError(
        f"`{shlex.join(argv[:5])} …` failed with status {status}. {otherwise}"
      )

  def query(self, argv: Sequence[str], assumed: str) -> Answer:
    """Runs a command and captures its output.

    Args:
      argv: Command.
      assumed: Output that a dry run assumes.
    """
    self._show(argv)
    if self.dry_run:
      return Answer(0, assumed)
    done = self._started(
      argv, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    return Answer(done.returncode, done.stdout, done.stderr)

  def _show(self, argv: Sequence[str]) -> None:
    print(f"+ {shlex.join(argv)}", flush=True)

  def _started(
    self, argv: Sequence[str], **options
  ) -> subprocess.CompletedProcess:
    try:
      return subprocess.run(list(argv), check=False, **options)
    except FileNotFoundError:
      remedy = _INSTALL.get(argv[0], "Install it.")
      raise LaunchError(
        f"{argv[0]} is not on this machine's PATH. {remedy} "
        "`--dry_run` shows the commands without it."
      ) from None
