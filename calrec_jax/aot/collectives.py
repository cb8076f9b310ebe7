"""The collectives of a compiled program."""

from __future__ import annotations

import collections
import math
import re
from typing import Any, NamedTuple

import numpy as np

from calrec_jax.aot import hlo

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
_START = re.compile(rf" ({'|'.join(KINDS)})(?:-start)?\(")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_SHAPE = re.compile(r"\b(pred|bf16|f8\w*|[a-z]\d+)\[([\d,]*)\]")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_IOTA = re.compile(
  r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
)
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'=(\d+)")
_PAIRS = re.compile(r"source_target_pairs=\{\{(\d+),(\d+)\}")
_FUSED_SCATTER = "all-reduce-scatter"
# Slices communicate through their hosts: a program sends, and receives data
# already gathered or reduced over all slices.
_RECEIVED = re.compile(
  r" recv\(.*_xla_megascale_transfer_type=\"(\w+)\"", re.DOTALL
)
_METADATA = re.compile(r'op_name="([^"]*)"')


class Collective(NamedTuple):
  """One collective, over all of its runs.

  Attributes:
    kind: Kind, from `KINDS`.
    chips: Number of chips in a group.
    across_slices: Whether it crosses the network between slices.
    runs: Number of runs per call of the program.
    bytes: Bytes of the result per chip, over all runs; of the operand for a
      reduce-scatter.
    source: Name of its origin in the traced program.
  """

  kind: str
  chips: int
  across_slices: bool
  runs: int
  bytes: int
  source: str

  def seconds(self, bytes_per_second: float) -> float:
    """Least time on rings of links with this total bandwidth.

    A ring passes (n - 1) / n of the data once for a gather or scatter, and
    twice for an all-reduce; a permutation passes all of it once.
    """
    ring = (self.chips - 1) / self.chips if self.chips > 1 else 0.0
    passes = {"all-reduce": 2 * ring, "collective-permute": 1.0}
    return self.bytes * passes.get(self.kind, ring) / bytes_per_second


def find(module: hlo.Module, devices: int, slices: int = 1) -> list[Collective]:
  """All collectives of a program.

  Args:
    module: Program.
    devices: Number of devices, in the order of the mesh.
    slices: Number of TPU slices that they belong to, consecutively.
  """
  found: dict[tuple[Any, ...], Collective] = {}
  for name, lines in module.computations.items():
    for number, line in enumerate(lines if module.runs[name] else ()):
      one = _read(name, line, module.runs[name], devices, slices)
      if one is not None:
        found[_identity(line, one) or (name, number)] = one
  return list(found.values())


def by_kind(found: list[Collective]) -> dict[str, dict[str, int]]:
  """Runs and bytes, summed by kind and number of chips: "all-gather@16"."""
  totals: dict[str, dict[str, int]] = collections.defaultdict(
    lambda: {"runs": 0, "bytes": 0}
  )
  for one in found:
    where = " across slices" if one.across_slices else ""
    entry = totals[f"{one.kind}@{one.chips}{where}"]
    entry["runs"] += one.runs
    entry["bytes"] += one.bytes
  return dict(sorted(totals.items()))


def _identity(line: str, one: Collective) -> tuple[str, ...] | None:
  """Key that is equal for the parts of one collective in several fusions.

  One that overlaps with computation appears where it starts, continues and
  ends; different collectives may share a channel, but not the origin as well.
  """
  channel = _CHANNEL.search(line)
  if channel is None or not _START.search(line):
    return None
  shapes = str(_SHAPE.findall(_result(line)))
  return (one.kind, channel[1], shapes, one.source)


def _read(
  computation: str, line: str, runs: int, devices: int, slices: int
) -> Collective | None:
  """The collective of an instruction, if it is one."""
  received, start = _RECEIVED.search(line), _START.search(line)
  if received:
    kind, chips, across = received[1].lower().replace("_", "-"), slices, True
    size = _bytes(*_SHAPE.findall(_result(line))[0])
  elif start:
    # An all-reduce of which only a slice is used is fused with the slicing.
    fused = computation.startswith(_FUSED_SCATTER)
    kind = "reduce-scatter" if fused else start[1]
    group = _group(line, devices)
    chips = len(group)
    in_slice = max(1, devices // slices)
    across = len({device // in_slice for device in group}) > 1
    shapes = _SHAPE.findall(_result(line))
    if f" {kind}-start(" in line:
      shapes = shapes[-1:]  # The operand is named before the result.
    size = sum(_bytes(*shape) for shape in shapes)
    if start[1] == "reduce-scatter":
      size *= chips  # Its result is a part of the operand.
  else:
    return None
  source = _METADATA.search(line)
  return Collective(
    kind, chips, across, runs, runs * size, source[1] if source else ""
  )


def _result(line: str) -> str:
  """The part of a line that describes an instruction's result."""
  result = line.split(" = ", 1)[1]
  start = _START.search(result)
  return result[: start.start()] if start else result


def _bytes(dtype: str, shape: str) -> int:
  bits = 8 if dtype == "pred" else int(re.sub(r"\D*(\d+).*", r"\1", dtype))
  return math.prod(int(size) for size in shape.split(",") if size) * bits // 8


def _group(line: str, devices: int) -> list[int]:
  """The devices of the first group."""
  if match := _LISTED.search(line):
    return [int(part) for part in match[1].split(",")]
  if match := _PAIRS.search(line):
    return [int(match[1]), int(match[2])]
  if match := _IOTA.search(line):
    shape, sizes, order = (
      [int(part) for part in (text or "").split(",") if part]
      for text in match.groups()
    )
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    ids = ids.transpose(order) if order else ids
    return ids.reshape(shape)[0].tolist()
  if match := _MESH.search(line):
    axes = {name: int(size) for name, size in _AXIS.findall(match[1])}
    inside = re.findall(r"'([^']+)'", match[2])
    ids = np.arange(math.prod(axes.values())).reshape(*axes.values())
    first = tuple(slice(None) if name in inside else 0 for name in axes)
    return np.atleast_1d(ids[first]).ravel().tolist()
  return list(range(devices))
