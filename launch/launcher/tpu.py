"""TPU VMs and queued resources: gcloud's command lines and their states.

Sources: https://cloud.google.com/sdk/gcloud/reference/compute/tpus/tpu-vm and
.../queued-resources (flags), https://cloud.google.com/tpu/docs/queued-resources
(states), https://cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.nodes
(states of nodes).
"""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from . import accelerators, hosts
from .marks import LABEL
from .shell import LaunchError, Shell

_TPUS = ("gcloud", "compute", "tpus")
# A lost host never responds; without these, ssh would wait forever.
_ALIVE = (
  "--ssh-flag=-oServerAliveInterval=30",
  "--ssh-flag=-oServerAliveCountMax=4",
)
_GONE_NODES = ("PREEMPTED", "TERMINATED", "STOPPED", "STOPPING", "DELETING")


class _Cloud:
  """Base of both kinds.

  Attributes:
    kind: Kind in the files of `marks`.
    label: Human-readable kind.
    ready: State in which it can be used.
    gone: States from which it never becomes ready.
  """

  kind: str
  command: str
  label: str
  ready: str
  gone: tuple[str, ...]
  accelerator = "tpu"

  def __init__(self, shell: Shell, options: argparse.Namespace):
    """Takes the parsed flags (`flags.add_cloud`)."""
    self._shell, self._options = shell, options
    self.name: str = options.name
    self.key = f"{options.project}/{options.zone}/{options.name}"

  def check(self) -> None:
    """Checks the flags that only creation needs.

    Raises:
      LaunchError: If the accelerator is unknown.
    """
    if not self._options.accelerator:
      raise LaunchError(
        f"--accelerator is missing, and there is no {self.label} "
        f"{self.name} to use. Set --accelerator=v5litepod-8.",
        2,
      )
    accelerators.generation(self._options.accelerator)

  def describe(self, assumed: str | None) -> Mapping[str, Any] | None:
    """The cloud's description; None if it does not exist.

    Args:
      assumed: State that a dry run assumes.

    Raises:
      LaunchError: If the cloud does not respond.
    """
    answer = self._shell.query(
      self._gcloud("describe", "--format=json"),
      assumed=json.dumps(self._assumed(assumed)),
    )
    if answer.status == 0:
      return json.loads(answer.stdout)
    if "NOT_FOUND" in answer.stderr or "was not found" in answer.stderr:
      return None
    raise LaunchError(
      f"gcloud cannot tell whether {self.label} {self.name} exists:\n"
      f"{answer.stderr.strip()}\nSigned in (`gcloud auth login`)? Is the TPU "
      "API on (`gcloud services enable tpu.googleapis.com`)?"
    )

  def create(self, token: str) -> list[str]:
    """The command that creates it, labelled with a token."""
    o = self._options
    return self._gcloud(
      "create",
      *self._shape(),
      f"--labels={LABEL}={token}",
      *(["--spot"] if o.spot else []),
      *(
        [f"--service-account={o.service_account}"] if o.service_account else []
      ),
      *o.create_flag,
    )

  def delete(self) -> list[str]:
    """The command that deletes it."""
    return self._gcloud("delete", "--quiet")

  def ssh(self, command: str, *, first: bool = False) -> list[str]:
    """See `hosts.Reach`."""
    return self._gcloud(
      "ssh", *self._to(first), f"--command={command}", *_ALIVE, *self._ip()
    )

  def send(self, path: str) -> list[str] | None:
    """See `hosts.Reach`."""
    return self._copy([path, f"{self.name}:"], first=False)

  def receive(self, name: str, path: str) -> list[str]:
    """See `hosts.Reach`."""
    return self._copy([f"{self.name}:{name}", path], first=True)

  def folder(self) -> str:
    """See `hosts.Reach`."""
    return hosts.CHECKOUT

  def preempted(self, found: Mapping[str, Any] | None) -> bool:
    """Whether it is no longer ready."""
    return found is None or self.state(found) in self.gone

  def state(self, found: Mapping[str, Any]) -> str:
    """Its state, as the cloud names it."""
    raise NotImplementedError

  def labels(self, found: Mapping[str, Any]) -> Mapping[str, str]:
    """Its labels."""
    raise NotImplementedError

  def _assumed(self, state: str | None) -> Mapping[str, Any] | None:
    raise NotImplementedError

  def _shape(self) -> list[str]:
    raise NotImplementedError

  def _to(self, first: bool) -> list[str]:
    raise NotImplementedError

  def _runtime(self) -> str:
    kind = accelerators.generation(self._options.accelerator)
    return self._options.runtime or kind.runtime

  def _ip(self) -> list[str]:
    return ["--internal-ip"] if self._options.internal_ip else []

  def _copy(self, paths: list[str], first: bool) -> list[str]:
    where = self._place()
    to = self._to(first)
    return [*_TPUS, self.command, "scp", *paths, *where, *to, *self._ip()]

  def _gcloud(self, verb: str, *more: str) -> list[str]:
    return [*_TPUS, self.command, verb, self.name, *self._place(), *more]

  def _place(self) -> list[str]:
    return [
      f"--zone={self._options.zone}",
      f"--project={self._options.project}",
    ]


class TpuVm(_Cloud):
  """A TPU VM: a slice of one or more hosts."""

  kind, command, label = "tpu-vm", "tpu-vm", "TPU VM"
  ready = "READY"
  gone = _GONE_NODES

  def state(self, found: Mapping[str, Any]) -> str:
    """See `_Cloud`."""
    return found.get("state", "STATE_UNSPECIFIED")

  def labels(self, found: Mapping[str, Any]) -> Mapping[str, str]:
    """See `_Cloud`."""
    return found.get("labels", {})

  def _assumed(self, state: str | None) -> Mapping[str, Any] | None:
    return {"state": state} if state else None

  def _shape(self) -> list[str]:
    return [
      f"--accelerator-type={self._options.accelerator}",
      f"--version={self._runtime()}",
    ]

  def _to(self, first: bool) -> list[str]:
    return ["--worker=0" if first else "--worker=all"]


class QueuedResource(_Cloud):
  """One or more slices from a queue."""

  kind, command, label = (
    "queued-resource",
    "queued-resources",
    "queued resource",
  )
  ready = "ACTIVE"
  gone = ("SUSPENDED", "SUSPENDING", "FAILED", "DELETING")

  def state(self, found: Mapping[str, Any]) -> str:
    """See `_Cloud`."""
    return found.get("state", {}).get("state", "STATE_UNSPECIFIED")

  def labels(self, found: Mapping[str, Any]) -> Mapping[str, str]:
    """See `_Cloud`; the labels are those of its nodes."""
    [spec, *_] = found.get("tpu", {}).get("nodeSpec", [{}])
    return spec.get("node", {}).get("labels", {})

  def preempted(self, found: Mapping[str, Any] | None) -> bool:
    """See `_Cloud`; also checks the nodes, whose state changes first."""
    if found is None or super().preempted(found):
      return True
    if self.state(found) != self.ready:
      return False  # It has no nodes yet.
    for node in self._nodes():
      answer = self._shell.query(
        [*_TPUS, "tpu-vm", "describe", node, *self._place(), "--format=json"],
        assumed='{"state": "READY"}',
      )
      if answer.status == 0:
        if json.loads(answer.stdout).get("state") in _GONE_NODES:
          return True
      elif "NOT_FOUND" in answer.stderr or "was not found" in answer.stderr:
        return True
    return False

  def delete(self) -> list[str]:
    """See `_Cloud`; also deletes its nodes."""
    return [*super().delete(), "--force"]

  def _nodes(self) -> list[str]:
    slices = self._options.slices
    if slices == 1:
      return [self.name]
    return [f"{self.name}-{index}" for index in range(slices)]

  def _assumed(self, state: str | None) -> Mapping[str, Any] | None:
    return {"state": {"state": state}} if state else None

  def _shape(self) -> list[str]:
    o = self._options
    several = [f"--node-count={o.slices}", f"--node-prefix={self.name}"]
    return [
      f"--accelerator-type={o.accelerator}",
      f"--runtime-version={self._runtime()}",
      *(several if o.slices > 1 else [f"--node-id={self.name}"]),
      *(["--reserved"] if o.reserved else []),
      f"--valid-until-duration={o.valid_until_duration}",
    ]

  def _to(self, first: bool) -> list[str]:
    everyone = "0" if first else "all"
    return [f"--node={everyone}", f"--worker={everyone}"]
