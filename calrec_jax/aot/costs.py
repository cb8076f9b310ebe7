"""The record of one program: memory, FLOPs, collectives, and the bound.

Compiled once and remembered by the sha256 of the lowered program: JAX's own
compilation cache cannot read back what was compiled for absent devices.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import pathlib
import re
import time
from typing import Any

import jax

from calrec_jax.aot import collectives, hlo, matrix_flops
from calrec_jax.aot.programs import Program
from calrec_jax.aot.topology import Topology
from calrec_jax.storage import lineage

# Raised when records of the same program would hold other numbers.
SCHEMA = 2
_VERSIONS = ("jax", "jaxlib", "libtpu")
_TOO_MUCH = re.compile(
  r"(?:total memory required[^(]*\(([\d.]+)([KMGT]?)\)|"
  r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm)"
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SHOWN = 5


def measure(
  program: Program,
  topology: Topology,
  mesh: jax.sharding.Mesh,
  memory_folder: pathlib.Path | None = None,
) -> dict[str, Any]:
  """Compiles a program and takes its measures; fit for JSON.

  Args:
    program: Program to compile, inside `partitioning.activate`.
    topology: Devices to compile for.
    mesh: Mesh of these devices.
    memory_folder: Folder of records of programs that were compiled before;
      None compiles in any case.

  Returns:
    See `docs/sharding.md`. Bytes and FLOPs are those of one chip.
  """
  traced = program.trace()
  lowered = traced.lower(lowering_platforms=("tpu",))
  versions = {name: importlib.metadata.version(name) for name in _VERSIONS}
  identity = json.dumps([SCHEMA, topology.name, topology.slices, versions])
  key = hashlib.sha256((identity + lowered.as_text()).encode()).hexdigest()
  record = _remembered(memory_folder, key)
  if record is None:
    record = {
      "versions": versions,
      "executed_flops": matrix_flops.count(traced.jaxpr) / mesh.size,
      **_compiled(lowered, topology, mesh),
    }
    if memory_folder is not None:
      lineage.write_json(memory_folder / f"{key}.json", record)
  return {
    "program": program.name,
    "what": program.what,
    "sha256": key,
    "arguments": dict(program.arguments),
    **record,
    **_bound(program, record, topology, mesh),
  }


def _remembered(folder: pathlib.Path | None, key: str) -> dict[str, Any] | None:
  path = folder / f"{key}.json" if folder is not None else None
  if path is None or not path.exists():
    return None
  return json.loads(path.read_text("utf-8"))


def _compiled(
  lowered: Any, topology: Topology, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  began = time.process_time()
  available = int(topology.chip.hbm_bytes)
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    needed = _memory_in(str(error))
    if needed is None:
      raise
    return {
      "fits": False,
      "peak_bytes": needed,
      "available_bytes": available,
      "message": str(error).splitlines()[0],
    }
  memory = compiled.memory_analysis()
  found = collectives.find(
    module := hlo.parse(compiled.as_text()), mesh.size, topology.slices
  )
  links = topology.chip.link_bytes_per_second
  moved = memory.argument_size_in_bytes + memory.output_size_in_bytes
  return {
    "fits": memory.peak_memory_in_bytes <= available,
    "peak_bytes": memory.peak_memory_in_bytes,
    "available_bytes": available,
    "temporary_bytes": memory.temp_size_in_bytes,
    "code_bytes": memory.generated_code_size_in_bytes,
    "collectives": collectives.by_kind(found),
    "largest_collectives": [
      one._asdict()
      for one in sorted(found, key=lambda one: -one.bytes)[:_SHOWN]
    ],
    "open_loops": module.open_loops,
    # The network between slices has a speed that no data sheet states.
    "link_seconds": sum(
      one.seconds(links) for one in found if not one.across_slices
    ),
    "network_bytes": sum(one.bytes for one in found if one.across_slices),
    "memory_seconds": moved / topology.chip.hbm_bytes_per_second,
    "compile_cpu_seconds": time.process_time() - began,
  }


def _bound(
  program: Program,
  record: dict[str, Any],
  topology: Topology,
  mesh: jax.sharding.Mesh,
) -> dict[str, Any]:
  """The least time of a call, what sets it, and what utilisation it leaves."""
  if not record["fits"]:
    return {}
  least = {
    "matrix products": record["executed_flops"] / topology.flops_per_second,
    "links between chips": record["link_seconds"],
    "memory": record["memory_seconds"],
  }
  limit = max(least, key=lambda name: least[name])
  bound: dict[str, Any] = {
    "product_seconds": least["matrix products"],
    "least_seconds": least[limit],
    "limited_by": limit,
  }
  if program.needed_flops is not None:
    needed = program.needed_flops / mesh.size
    bound["needed_flops"] = needed
    bound["utilisation_bound"] = needed / (
      least[limit] * topology.flops_per_second
    )
  return bound


def _memory_in(message: str) -> int | None:
  """Bytes that a program which does not fit would take."""
  if "RESOURCE_EXHAUSTED" not in message:
    return None
  match = _TOO_MUCH.search(message)
  if match is None:
    return None
  size, unit = match[1] or match[3], match[2] or match[4] or ""
  return int(float(size) * _UNITS[unit])
