"""What is asked of the hosts of a run: always `launch/on_host.sh`, on each.

Commands travel as one string that a shell on the host takes apart again; it is
put together by `shlex.join`, so every argument arrives as it was.
"""

import pathlib
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Protocol

from .flags import ROOT, Command
from .shell import LaunchError, Shell

CHECKOUT = "calrec_jax"  # In the home folder of a host.
_ARCHIVE = "calrec_checkout.tgz"
_RESULTS = "calrec_results.tgz"
_REPORT = re.compile(r"^calrec-run (\S+): (\w+)(?: (\d+))?$", re.MULTILINE)


class Reach(Protocol):
  """How hosts are reached; command lines, not their running."""

  accelerator: str  # Its lock of launch/locks.

  def ssh(self, command: str, *, first: bool = False) -> list[str]:
    """Runs a command on every host at once, or on the first alone."""
    ...

  def send(self, path: str) -> list[str] | None:
    """Copies a file into the home of every host; None where none is needed."""
    ...

  def bring(self, name: str, path: str) -> list[str]:
    """Copies a file from the home of the first host."""
    ...

  def folder(self) -> str:
    """The checkout on the hosts, as their shells see it from home."""
    ...


class Hosts:
  """The hosts of one run."""

  def __init__(self, shell: Shell, reach: Reach, name: str, *, docker=False):
    """Takes how they are reached and what the run is called there.

    Args:
      shell: runs commands.
      reach: how hosts are reached.
      name: of the run.
      docker: whether the run is one of the image of launch/Dockerfile.
    """
    self._shell, self._reach, self._name = shell, reach, name
    self._docker = docker

  def install(
    self, locks: Sequence[str] = (), bucket: str | None = None
  ) -> None:
    """Copies the checkout and makes the environment.

    Args:
      locks: of launch/locks, beside that of the accelerator.
      bucket: to mount.

    Raises:
      LaunchError: if that fails.
    """
    with tempfile.TemporaryDirectory() as folder:
      path = str(pathlib.Path(folder) / _ARCHIVE)
      send = self._reach.send(path)
      if send is not None:
        self._shell.check(checkout_archive(path), "Is the disk full?")
        self._shell.check(send, _UNREACHED)
        self._shell.check(self._reach.ssh(_unpack()), _UNREACHED)
    action = "setup_docker" if self._docker else "setup"
    names = ",".join([self._reach.accelerator, *locks])
    setup = [action, names, *([bucket] if bucket else [])]
    self._shell.check(
      self._ssh(setup), "What the hosts printed above says why."
    )

  def start(self, command: Command, volumes: Sequence[str] = ()) -> None:
    """Starts the run; it lives on when this process ends.

    Raises:
      LaunchError: if that fails, as when another run has its name.
    """
    work = ["work_docker", ",".join(volumes)] if self._docker else ["work"]
    self._shell.check(
      self._ssh(["start", self._name, *work, *command.words()]),
      "What the hosts printed above says why.",
    )

  def follow(self, which: str = "all") -> None:
    """Shows the log until the run ends or the connection breaks.

    Args:
      which: of the log so far, `all` or nothing (`new`).
    """
    self._shell.run(self._ssh(["follow", self._name, which]))

  def reports(self) -> list[tuple[str, int]] | None:
    """Each host's state, `running`, `ended`, `lost` or `absent`, and status.

    Returns:
      None if not all hosts could be reached.
    """
    answer = self._shell.ask(
      self._ssh(["status", self._name]), assumed="calrec-run HOST: ended 0\n"
    )
    found = _REPORT.findall(answer.stdout)
    if answer.status or not found:
      return None
    return [(state, int(status or 0)) for _, state, status in found]

  def running(self) -> bool:
    """Whether it is going on, so that nothing may be installed under it."""
    return any(state == "running" for state, _ in self.reports() or ())

  def stop(self) -> None:
    """Tells the run to save and leave, and waits for it."""
    self._shell.check(self._ssh(["stop", self._name]), _UNREACHED)

  def fetch(self, paths: Sequence[str]) -> None:
    """Brings results from the first host into the checkout here.

    Raises:
      LaunchError: if that fails.
    """
    if not paths:
      return
    pack = ["pack", _RESULTS, *paths]
    self._shell.check(self._ssh(pack, first=True), "Are the paths right?")
    with tempfile.TemporaryDirectory() as folder:
      path = str(pathlib.Path(folder) / _RESULTS)
      self._shell.check(self._reach.bring(_RESULTS, path), _UNREACHED)
      self._shell.check(
        [
          "tar",
          "--extract",
          "--gzip",
          "--file",
          path,
          "--directory",
          str(ROOT),
        ],
        "Is the disk full?",
      )

  def _ssh(self, words: Sequence[str], *, first: bool = False) -> list[str]:
    script = f"{self._reach.folder()}/launch/on_host.sh"
    return self._reach.ssh(shlex.join(["bash", script, *words]), first=first)


def checkout_archive(path: str) -> list[str]:
  """The command that packs the checkout without what git ignores.

  Raises:
    LaunchError: if the checkout's files cannot be listed.
  """
  listed = subprocess.run(
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    check=False,
  )
  if listed.returncode:
    raise LaunchError(
      f"git does not list the files of {ROOT}: "
      f"{listed.stderr.decode().strip()} Launch from a clone of the repository."
    )
  names = pathlib.Path(path).with_suffix(".files")
  there = (n for n in listed.stdout.split(b"\0") if n and _exists(n))
  names.write_bytes(b"".join(name + b"\0" for name in there))
  return [
    *("tar", "--create", "--gzip", "--file", path, "--directory", str(ROOT)),
    *("--null", "--verbatim-files-from", f"--files-from={names}"),
  ]


def _exists(name: bytes) -> bool:
  return (ROOT / name.decode()).exists()


def _unpack() -> str:
  make = shlex.join(["mkdir", "-p", CHECKOUT])
  unpack = ["tar", "--extract", "--gzip", "--file", _ARCHIVE]
  return f"{make} && {shlex.join([*unpack, '--directory', CHECKOUT])}"


_UNREACHED = (
  "Are the hosts reached? Several at once need your key in an agent: "
  "`ssh-add ~/.ssh/google_compute_engine`."
)
