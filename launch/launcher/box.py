"""An existing machine: this one, or one reached by ssh."""

import shlex

from . import hosts
from .flags import ROOT
from .shell import LaunchError

_ALIVE = ("-oServerAliveInterval=30", "-oServerAliveCountMax=4")


class ThisMachine:
  """The machine of the launcher; its checkout is used in place."""

  accelerator = "cuda"

  def ssh(self, command: str, *, first: bool = False) -> list[str]:
    """See `hosts.Reach`; no shell parses the command here."""
    del first
    return shlex.split(command)

  def send(self, path: str) -> list[str] | None:
    """See `hosts.Reach`."""
    del path

  def receive(self, name: str, path: str) -> list[str]:
    """See `hosts.Reach`."""
    raise LaunchError("--fetch needs --host; results are already here.", 2)

  def folder(self) -> str:
    """See `hosts.Reach`."""
    return str(ROOT)


class Box:
  """A machine reached by ssh."""

  accelerator = "cuda"

  def __init__(self, host: str):
    """Takes the host in ssh's syntax, such as `me@box`.

    Raises:
      LaunchError: If ssh would parse it as an option.
    """
    if host.startswith("-"):
      raise LaunchError(f"--host={host} is not a host; use --host=me@box.", 2)
    self._host = host

  def ssh(self, command: str, *, first: bool = False) -> list[str]:
    """See `hosts.Reach`."""
    del first
    return ["ssh", *_ALIVE, self._host, command]

  def send(self, path: str) -> list[str] | None:
    """See `hosts.Reach`."""
    return ["scp", path, f"{self._host}:"]

  def receive(self, name: str, path: str) -> list[str]:
    """See `hosts.Reach`."""
    return ["scp", f"{self._host}:{name}", path]

  def folder(self) -> str:
    """See `hosts.Reach`."""
    return hosts.CHECKOUT
