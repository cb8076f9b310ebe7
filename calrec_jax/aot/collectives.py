"""What a compiled program sends between chips."""

from __future__ import annotations

import collections
import math
import re
from typing import NamedTuple

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
# Slices exchange through their hosts: a program sends, and what it receives has
# been gathered or reduced over all slices.
_RECEIVED = re.compile(
  r" recv\(.*_xla_megascale_transfer_type=\"(\w+)\"", re.DOTALL
)
_METADATA = re.compile(r'op_name="([^"]*)"')


class Collective(NamedTuple):
  """One exchange, as often as it runs.

  Attributes:
    kind: One of `KINDS`.
    chips: Number of chips that take part in one exchange.
    across_slices: Whether it crosses the network between slices.
    runs: Number of runs in one call of the program.
    bytes: Bytes of the result on a chip, all runs together; of the operand for
      a reduce-scatter.
    source: Place in the traced program that it comes from.
  """

  kind: str
  chips: int
  across_slices: bool
  runs: int
  bytes: int
  source: str

  def seconds(self, bytes_per_second: float) -> float:
    """Least time on rings of links that together send so many bytes.

    A ring passes (n - 1) / n of the data once for a gather or a scatter, twice
    for a reduction that every chip wants; a permutation passes all of it.
    """
    share = (self.chips - 1) / self.chips if self.chips > 1 else 0.0
    passes = {"all-reduce": 2 * share, "collective-permute": 1.0}
    return self.bytes * passes.get(self.kind, share) / bytes_per_second


def find(module: hlo.Module, devices: int, slices: int = 1) -> list[Collective]:
  """All collectives of a program.

  Args:
    module: Module of the compiled program.
    devices: Devices it runs on, in the order of its mesh.
    slices: TPU slices that these belong to, one after the other.
  """
  found: dict[tuple[str, ...], Collective] = {}
  for name, lines in module.computations.items():
    if not module.runs[name]:
      continue
    for number, line in enumerate(lines):
      place = f"{name} {number}"
      if received := _RECEIVED.search(line):
        kind = received[1].lower().replace("_", "-")
        found[(place,)] = _between_slices(line, kind, module.runs[name], slices)
        continue
      start = _START.search(line)
      if start is None:
        continue
      # A reduction whose parts are kept only is fused with their cutting.
      fused = name.startswith(_FUSED_SCATTER)
      kind = "reduce-scatter" if fused else start[1]
      one = _read(line, kind, module.runs[name], devices, slices)
      if fused:
        one = one._replace(bytes=one.bytes // one.chips)  # It is whole here.
      found[_identity(line, one, place)] = one
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


def _identity(line: str, one: Collective, place: str) -> tuple[str, ...]:
  """The same for what is one exchange, spelled in several fusions.

  What overlaps with computation is spelled where it starts, goes on and ends;
  different exchanges may share a channel, but not where they come from too.
  """
  channel = _CHANNEL.search(line)
  if channel is None:
    return (place,)
  shapes = str(_SHAPE.findall(_result(line)))
  return (one.kind, channel[1], shapes, one.source)


def _read(
  line: str, kind: str, runs: int, devices: int, slices: int
) -> Collective:
  group = _group(line, devices)
  shapes = _SHAPE.findall(_result(line))
  if f" {kind}-start(" in line:
    shapes = shapes[-1:]  # The operand is named before the result.
  size = sum(_bytes(*shape) for shape in shapes)
  if kind == "reduce-scatter":
    size *= len(group)
  in_slice = max(1, devices // slices)
  source = _METADATA.search(line)
  return Collective(
    kind,
    len(group),
    len({device // in_slice for device in group}) > 1,
    runs,
    runs * size,
    source[1] if source else "",
  )


def _between_slices(line: str, kind: str, runs: int, slices: int) -> Collective:
  """What a chip receives from its peers of the other slices."""
  size = _bytes(*_SHAPE.findall(_result(line))[0])
  source = _METADATA.search(line)
  return Collective(
    kind, slices, True, runs, runs * size, source[1] if source else ""
  )


def _result(line: str) -> str:
  """The part of a line that says what an instruction gives."""
  result = line.split(" = ", 1)[1]
  start = _START.search(result)
  return result[: start.start()] if start else result


def _bytes(dtype: str, shape: str) -> int:
  bits = 8 if dtype == "pred" else int(re.sub(r"\D*(\d+).*", r"\1", dtype))
  return math.prod(int(size) for size in shape.split(",") if size) * bits // 8


def _group(line: str, devices: int) -> list[int]:
  """The devices of the first of the groups that exchange something."""
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
