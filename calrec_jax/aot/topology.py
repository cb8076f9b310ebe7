"""TPU slices by name, described without a TPU."""

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
# Without this a v4 chip counts as two devices, unlike on Cloud TPUs.
_OPTIONS = {"v4": {"chip_config_name": "megacore"}}


class TopologyError(CalrecError, ValueError):
  """A topology that cannot be described here."""


@dataclasses.dataclass(frozen=True)
class Chip:
  """Specification of one chip.

  Attributes:
    hbm_bytes: Memory available to a program, as the compiler states it when a
      program does not fit (libtpu 0.0.42).
    hbm_bytes_per_second: Bandwidth of that memory.
    link_bytes_per_second: Outgoing bandwidth of all links together, half of the
      bidirectional bandwidth. Source of both: the system architecture pages of
      cloud.google.com/tpu/docs.
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
    name: Name, such as "v5e:4x4".
    slices: Number of slices.
    devices: Compile-only devices of all slices.
    chip: Specification of each chip.
  """

  name: str
  slices: int
  devices: tuple[Any, ...]
  chip: Chip

  @property
  def device_kind(self) -> str:
    """Device kind as JAX reports it on a real TPU."""
    return self.devices[0].device_kind

  @property
  def flops_per_second(self) -> float:
    """Peak FLOP/s of one chip in bfloat16, by its data sheet."""
    return chips.PEAK_FLOPS[self.device_kind]


def describe(name: str, slices: int = 1) -> Topology:
  """Describes the devices of slices of a shape such as "v5e:4x4".

  Raises:
    TopologyError: If the name is malformed or the shape does not exist.
    MissingPackageError: If the TPU compiler is not installed.
  """
  match = _NAME.fullmatch(name)
  if match is None:
    raise TopologyError(
      f"--topology={name} is malformed: give the generation and the number of "
      "chips along each side, such as v5e:4x4, v6e:4x4, v5p:4x4x2 or v4:2x2x4."
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
  if math.prod(sides) == 1:  # By default a host has 2 × 2 chips.
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
      f"--topology={name}: {kind} chips are not supported; choose one of "
      f"{', '.join(CHIPS)}."
    )
  num_chips = slices * math.prod(sides)
  if len(devices) != num_chips:
    raise TopologyError(
      f"--topology={name}: {len(devices)} devices for {num_chips} chips; "
      "choose a generation with one device per chip."
    )
  return Topology(name, slices, devices, CHIPS[kind])
