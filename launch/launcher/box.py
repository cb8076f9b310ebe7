"""A machine that is simply there: this one, or one that ssh reaches."""

import shlex

from . import hosts
from .flags import ROOT
from .shell import LaunchError

_ALIVE = ("-oServerAliveInterval=30", "-oServerAliveCountMax=4")


class ThisMachine:
  """The machine that the launcher runs on; its checkout is used in place."""

  accelerator = "cuda"

  def ssh(self, command: str, *, first: bool = False) -> list[str]:
    """See `hosts.Reach`; no shell takes the command apart here."""
    del first
    return shlex.split(command)

  def send(self, path: str) -> list[str] | None:
    """See `hosts.Reach`."""
    del path

  def bring(self, name: str, path: str) -> list[str]:
    """See `hosts.Reach`."""
    raise LaunchError("--fetch brings results from --host; here they are.", 2)

  def folder(self) -> str:
    """See `hosts.Reach`."""
    return str(ROOT)


class Box:
  """A machine behind ssh."""

  accelerator = "cuda"

  def __init__(self, host: str):
    """Takes what ssh calls it, such as `me@box`.

    Raises:
      LaunchError: if ssh would take it for an option.
    """
    if host.startswith("-"):
      raise LaunchError(f"--host={host} is no host; say --host=me@box.", 2)
    self._host = host

  def ssh(self, command: str, *, first: bool = False) -> list[str]:
    """See `hosts.Reach`."""
    del first
    return ["ssh", *_ALIVE, self._host, command]

  def send(self, path: str) -> list[str] | None:
    """See `hosts.Reach`."""
    return ["scp", path, f"{self._host}:"]

  def bring(self, name: str, path: str) -> list[str]:
    """See `hosts.Reach`."""
    return ["scp", f"{self._host}:{name}", path]

  def folder(self) -> str:
    """See `hosts.Reach`."""
    return hosts.CHECKOUT
