"""The cost record of a program: memory, FLOPs, collectives, and the bound.

Records are cached by the sha256 of the lowered program: JAX's compilation cache
cannot load programs compiled for absent devices.
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

# Incremented when the record of the same program changes.
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
  cache: pathlib.Path | None = None,
) -> dict[str, Any]:
  """Compiles a program and measures it; JSON-compatible.

  Args:
    program: Program to compile, inside `partitioning.activate`.
    topology: Devices to compile for.
    mesh: Mesh of these devices.
    cache: Folder of cached records; None always compiles.

  Returns:
    The record; see `docs/sharding.md`. Bytes and FLOPs are per chip.
  """
  traced = program.trace()
  lowered = traced.lower(lowering_platforms=("tpu",))
  versions = {name: importlib.metadata.version(name) for name in _VERSIONS}
  identity = json.dumps([SCHEMA, topology.name, topology.slices, versions])
  key = hashlib.sha256((identity + lowered.as_text()).encode()).hexdigest()
  cached = None if cache is None else cache / f"{key}.json"
  if cached is not None and cached.exists():
    record = json.loads(cached.read_text("utf-8"))
  else:
    record = {
      "versions": versions,
      "executed_flops": matrix_flops.count(traced.jaxpr) / mesh.size,
      **_compiled(lowered, topology, mesh),
    }
    if cached is not None:
      lineage.write_json(cached, record)
  return {
    "program": program.name,
    "what": program.what,
    "sha256": key,
    "arguments": dict(program.arguments),
    **record,
    **_bound(program, record, topology, mesh),
  }


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
  module = hlo.parse(compiled.as_text())
  found = collectives.find(module, mesh.size, topology.slices)
  largest = sorted(found, key=lambda one: -one.bytes)[:_SHOWN]
  links = topology.chip.link_bytes_per_second
  moved = memory.argument_size_in_bytes + memory.output_size_in_bytes
  return {
    "fits": memory.peak_memory_in_bytes <= available,
    "peak_bytes": memory.peak_memory_in_bytes,
    "available_bytes": available,
    "temporary_bytes": memory.temp_size_in_bytes,
    "code_bytes": memory.generated_code_size_in_bytes,
    "collectives": collectives.by_kind(found),
    "largest_collectives": [one._asdict() for one in largest],
    "open_loops": module.open_loops,
    # No data sheet states the bandwidth between slices.
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
  """Lower bound of a call's time, its bottleneck, and the utilisation bound."""
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
    possible = least[limit] * topology.flops_per_second
    bound |= {"needed_flops": needed, "utilisation_bound": needed / possible}
  return bound


def _memory_in(message: str) -> int | None:
  """Bytes that a program needs, from the error that it does not fit."""
  match = _TOO_MUCH.search(message)
  if match is None or "RESOURCE_EXHAUSTED" not in message:
    return None
  size, unit = match[1] or match[3], match[2] or match[4] or ""
  return int(float(size) * _UNITS[unit])
