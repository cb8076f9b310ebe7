"""Calls of `launch/on_host.sh` on every host of a run.

A command is sent as one string, which a shell on the host parses; it is made by
`shlex.join`, so every argument arrives unchanged.
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

CHECKOUT = "calrec_jax"  # In a host's home folder.
_ARCHIVE = "calrec_checkout.tgz"
_RESULTS = "calrec_results.tgz"
_REPORT = re.compile(r"^calrec-run (\S+): (\w+)(?: (\d+))?$", re.MULTILINE)


class Reach(Protocol):
  """Command lines that reach the hosts."""

  accelerator: str  # Its lock of launch/locks.

  def ssh(self, command: str, *, first: bool = False) -> list[str]:
    """Runs a command on all hosts in parallel, or on the first only."""
    ...

  def send(self, path: str) -> list[str] | None:
    """Copies a file to every host's home folder; None if not needed."""
    ...

  def receive(self, name: str, path: str) -> list[str]:
    """Copies a file from the first host's home folder."""
    ...

  def folder(self) -> str:
    """The checkout on the hosts, relative to the home folder."""
    ...


class Hosts:
  """The hosts of one run."""

  def __init__(self, shell: Shell, reach: Reach, name: str, *, docker=False):
    """Takes how hosts are reached and the run's name there.

    Args:
      shell: Shell that runs commands.
      reach: Command lines that reach the hosts.
      name: Name of the run.
      docker: Whether to use the image of launch/Dockerfile.
    """
    self._shell, self._reach, self._name = shell, reach, name
    self._docker = docker

  def install(
    self, locks: Sequence[str] = (), bucket: str | None = None
  ) -> None:
    """Copies the checkout and creates the environment.

    Args:
      locks: Files of launch/locks in addition to the accelerator's.
      bucket: Bucket to mount.

    Raises:
      LaunchError: If that fails.
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
      self._ssh(setup), "The hosts' output above has the reason."
    )

  def start(self, command: Command, volumes: Sequence[str] = ()) -> None:
    """Starts the run, which survives this process.

    Raises:
      LaunchError: If that fails, for example if the name is in use.
    """
    work = ["work_docker", ",".join(volumes)] if self._docker else ["work"]
    self._shell.check(
      self._ssh(["start", self._name, *work, *command.words()]),
      "The hosts' output above has the reason.",
    )

  def follow(self, which: str = "all") -> None:
    """Shows the log until the run ends or the connection breaks.

    Args:
      which: Part of the log so far to show: `all`, or none of it (`new`).
    """
    self._shell.run(self._ssh(["follow", self._name, which]))

  def reports(self) -> list[tuple[str, int]] | None:
    """Each host's state, `running`, `ended`, `lost` or `absent`, and status.

    Returns:
      The reports, or None if a host could not be reached.
    """
    answer = self._shell.query(
      self._ssh(["status", self._name]), assumed="calrec-run HOST: ended 0\n"
    )
    found = _REPORT.findall(answer.stdout)
    if answer.status or not found:
      return None
    return [(state, int(status or 0)) for _, state, status in found]

  def running(self) -> bool:
    """Whether it is running, so that nothing must be installed."""
    return any(state == "running" for state, _ in self.reports() or ())

  def stop(self) -> None:
    """Makes the run save and exit, and waits for it."""
    self._shell.check(self._ssh(["stop", self._name]), _UNREACHED)

  def fetch(self, paths: Sequence[str]) -> None:
    """Copies results from the first host into this checkout.

    Raises:
      LaunchError: If that fails.
    """
    if not paths:
      return
    pack = ["pack", _RESULTS, *paths]
    self._shell.check(self._ssh(pack, first=True), "Are the paths right?")
    with tempfile.TemporaryDirectory() as folder:
      path = str(pathlib.Path(folder) / _RESULTS)
      self._shell.check(self._reach.receive(_RESULTS, path), _UNREACHED)
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
  """The command that packs the checkout without git-ignored files.

  Raises:
    LaunchError: If the checkout's files cannot be listed.
  """
  listed = subprocess.run(
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    check=False,
  )
  if listed.returncode:
    raise LaunchError(
      f"git cannot list the files of {ROOT}: "
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
  "Are the hosts reachable? Parallel connections need your key in an agent: "
  "`ssh-add ~/.ssh/google_compute_engine`."
)
