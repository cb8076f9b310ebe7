"""TPU slices by name, described without any TPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
from typing import Any

import jax
from jax.experimental import topologies

from calrec_jax.errors import CalrecError, MissingPackageError
from calrec_jax.runtime import chips

_NAME = re.compile(r"(v\d[a-z]*):(\d+(?:x\d+){1,2})")
_GIB = 2**30
# Without this a v4 chip counts as two devices, as it does in no Cloud TPU.
_OPTIONS = {"v4": {"chip_config_name": "megacore"}}


class TopologyError(CalrecError, ValueError):
  """A topology that cannot be described here."""


@dataclasses.dataclass(frozen=True)
class Chip:
  """What one chip can do, by its data sheet.

  Attributes:
    hbm_bytes: Memory that a program may use, as the compiler states it when a
      program does not fit (libtpu 0.0.42).
    hbm_bytes_per_second: Bandwidth of that memory.
    link_bytes_per_second: Bandwidth from the chip to its neighbours, all links
      together: half of the bidirectional bandwidth. Sources of both: the
      system architecture pages of cloud.google.com/tpu/docs.
  """

  hbm_bytes: float
  hbm_bytes_per_second: float
  link_bytes_per_second: float


CHIPS = {
  "TPU v4": Chip(30.75 * _GIB, 1228e9, 150e9),
  "TPU v5 lite": Chip(15.75 * _GIB, 819e9, 200e9),
  "TPU v5": Chip(95.74 * _GIB, 2765e9, 600e9),
  "TPU v6 lite": Chip(31.25 * _GIB, 1640e9, 400e9),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Topology:
  """A TPU slice, or several.

  Attributes:
    name: Name such as "v5e:4x4".
    slices: Number of slices.
    devices: Devices of all slices; they can be compiled for and nothing else.
    chip: Kind of each chip.
  """

  name: str
  slices: int
  devices: tuple[Any, ...]
  chip: Chip

  @property
  def device_kind(self) -> str:
    """As JAX prints it on a machine that has them."""
    return self.devices[0].device_kind

  @property
  def flops_per_second(self) -> float:
    """Peak of one chip in bfloat16, by its data sheet."""
    return chips.PEAK_FLOPS[self.device_kind]


def describe(name: str, slices: int = 1) -> Topology:
  """The devices of a slice, or of several.

  Args:
    name: Generation and shape, "v5e:4x4", "v5p:4x4x2".
    slices: Number of such slices.

  Raises:
    TopologyError: for a name that is none, a shape that does not exist, and
      where the TPU compiler is not installed.
  """
  match = _NAME.fullmatch(name)
  if match is None:
    raise TopologyError(
      f"--topology={name}: write the generation and the chips along each side, "
      "v5e:4x4, v6e:4x4, v5p:4x4x2 or v4:2x2x4."
    )
  if slices < 1:
    raise TopologyError(f"--slices={slices} must be at least 1.")
  if importlib.util.find_spec("libtpu") is None:
    raise MissingPackageError(
      "The TPU compiler is not installed: pip install 'calrec_jax[tpu]' (about "
      "700 MB). No TPU is needed for it."
    )
  options: dict[str, Any] = dict(_OPTIONS.get(match[1], {}))
  sides = [int(side) for side in match[2].split("x")]
  if math.prod(sides) == 1:  # Else a host is taken to have 2 × 2 chips.
    options["chips_per_host_bounds"] = [1, 1, 1]
  if slices > 1:
    options["num_slices"] = slices
  try:
    described = topologies.get_topology_desc(
      platform="tpu", topology_name=name, **options
    )
  except jax.errors.JaxRuntimeError as error:
    raise TopologyError(
      f"--topology={name}: the TPU compiler does not know this slice: "
      f"{str(error).splitlines()[0]}"
    ) from error
  devices = tuple(described.devices)
  kind = devices[0].device_kind
  if kind not in CHIPS:
    raise TopologyError(
      f"--topology={name}: {kind} chips are not in ahead/topology.py yet; "
      f"there are {', '.join(CHIPS)}."
    )
  chips = slices * math.prod(sides)
  if len(devices) != chips:
    raise TopologyError(
      f"--topology={name}: {len(devices)} devices for {chips} chips; use a "
      "generation whose chips are one device each."
    )
  return Topology(name, slices, devices, CHIPS[kind])
