"""TPU types, as named by gcloud, GKE and `calrec compile`.

Sources: https://cloud.google.com/tpu/docs/v5e, .../v5p, .../v6e, .../v4 (names
and chips), https://cloud.google.com/tpu/docs/runtimes (runtime versions),
https://cloud.google.com/kubernetes-engine/docs/concepts/tpus (GKE).
"""

import dataclasses
import difflib
import math
import re

from .shell import LaunchError


@dataclasses.dataclass(frozen=True)
class Generation:
  """A generation of TPUs.

  Attributes:
    topology: Name for `calrec compile --topology=`.
    prefix: Prefix of gcloud's accelerator types, such as `v5litepod-16`.
    runtime: Software version of its TPU VMs.
    units: Units per chip in the number of an accelerator type.
    dimensions: Number of dimensions of its topologies.
    gke: Value of the node selector `cloud.google.com/gke-tpu-accelerator`.
    host_chips: Maximum number of chips of a single-host slice.
  """

  topology: str
  prefix: str
  runtime: str
  units: int
  dimensions: int
  gke: str
  host_chips: int


GENERATIONS = (
  Generation("v4", "v4", "tpu-ubuntu2204-base", 2, 3, "tpu-v4-podslice", 4),
  Generation(
    "v5e",
    "v5litepod",
    "v2-alpha-tpuv5-lite",
    1,
    2,
    "tpu-v5-lite-podslice",
    8,
  ),
  Generation("v5p", "v5p", "v2-alpha-tpuv5", 2, 3, "tpu-v5p-slice", 4),
  Generation("v6e", "v6e", "v2-alpha-tpuv6e", 1, 2, "tpu-v6e-slice", 8),
)
_CHIPS_OF_A_HOST = 4  # In a multi-host slice of any generation.


@dataclasses.dataclass(frozen=True)
class GkeSlice:
  """A slice in GKE's terms.

  Attributes:
    accelerator: Value of its node selector.
    topology: Topology, such as `4x4`.
    hosts: Number of hosts, each with one pod.
    chips: Number of chips per host.
  """

  accelerator: str
  topology: str
  hosts: int
  chips: int


def generation(accelerator: str) -> Generation:
  """The generation of gcloud's accelerator type.

  Args:
    accelerator: Type such as `v5litepod-16`, `v6e-8`, `v5p-32` or `v4-32`.

  Raises:
    LaunchError: If it is not known.
  """
  match = re.fullmatch(r"(\w+)-([1-9]\d*)", accelerator)
  known = {each.prefix: each for each in GENERATIONS}
  if match and match[1] in known and not int(match[2]) % known[match[1]].units:
    return known[match[1]]
  raise LaunchError(
    f"--accelerator={accelerator} is not a known TPU type such as "
    f"v5litepod-16, v6e-16, v5p-32 or v4-32.{_nearest(accelerator, known)} A "
    "zone's types: `gcloud compute tpus accelerator-types list --zone=ZONE`.",
    2,
  )


def gke_slice(text: str) -> GkeSlice:
  """The slice of a topology in `calrec compile`'s terms.

  Args:
    text: Topology such as `v5e:4x4` or `v5p:2x2x2`.

  Raises:
    LaunchError: If it is not known.
  """
  name, _, topology = text.partition(":")
  known = {each.topology: each for each in GENERATIONS}
  if name not in known:
    raise LaunchError(
      f"--topology={text} must start with one of {', '.join(known)}, such as "
      f"v5e:4x4.{_nearest(name, known)}",
      2,
    )
  kind = known[name]
  sides = topology.split("x")
  if len(sides) != kind.dimensions or not all(
    re.fullmatch(r"[1-9]\d*", side) for side in sides
  ):
    example = "4x4" if kind.dimensions == 2 else "2x2x2"
    raise LaunchError(
      f"--topology={text}: a {name} slice has {kind.dimensions} sides, as in "
      f"{name}:{example}.",
      2,
    )
  chips = math.prod(int(side) for side in sides)
  if chips <= kind.host_chips:
    return GkeSlice(kind.gke, topology, 1, chips)
  if chips % _CHIPS_OF_A_HOST:
    raise LaunchError(
      f"--topology={text} has {chips} chips, which are not whole hosts of "
      f"{_CHIPS_OF_A_HOST}.",
      2,
    )
  hosts = chips // _CHIPS_OF_A_HOST
  return GkeSlice(kind.gke, topology, hosts, _CHIPS_OF_A_HOST)


def _nearest(name: str, known: dict[str, Generation]) -> str:
  """Suggests a name, also for gcloud's v5litepod, which is v5e elsewhere."""
  name = name.partition("-")[0]
  other = {each.topology: each.prefix for each in GENERATIONS}
  other |= {each.prefix: each.topology for each in GENERATIONS}
  close = [other[name]] if name in other else []
  close += difflib.get_close_matches(name, known, n=1)
  return f" Did you mean {close[0]}?" if close else ""
