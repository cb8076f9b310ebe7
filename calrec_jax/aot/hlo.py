"""How often each part of a compiled program runs.

Parses the text of an executable: its computations, their callers, and the trip
counts of loops. Tested on hand-written texts and real executables.
"""

from __future__ import annotations

import dataclasses
import functools
import graphlib
import re
from collections.abc import Mapping

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
# Not every brace in the first column: a kernel's metadata may span lines.
_END = re.compile(r"^\}(?:, execution_thread=.*)?\s*(?://.*)?$")
_CALLEE = re.compile(
  r"(?:calls|to_apply|body|condition|true_computation|false_computation)"
  r"=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPERANDS = re.compile(r" (?:compare|add)\(%?([\w.\-]+), %?([\w.\-]+)\)")
_CONSTANT = re.compile(r"constant\((-?\d+)\)")
_ELEMENT = re.compile(r"get-tuple-element\(.*\), index=(\d+)")


@dataclasses.dataclass(frozen=True)
class Module:
  """A compiled program.

  Attributes:
    computations: Lines of each computation, by name.
    entry: Name of the entry computation.
  """

  computations: Mapping[str, tuple[str, ...]]
  entry: str

  @functools.cached_property
  def runs(self) -> dict[str, int]:
    """Number of runs of each computation per call of the program.

    All branches of a conditional count as run; a loop with a dynamic trip count
    counts as one iteration (`open_loops`).
    """
    calls = {name: self._calls(name) for name in self.computations}
    graph = {name: [callee for callee, _ in calls[name]] for name in calls}
    callees_first = [*graphlib.TopologicalSorter(graph).static_order()]
    counts = dict.fromkeys(calls, 0) | {self.entry: 1}
    for name in reversed(callees_first):
      for callee, times in calls[name]:
        counts[callee] += counts[name] * times
    return counts

  @functools.cached_property
  def open_loops(self) -> int:
    """Number of loops with a dynamic trip count."""
    return sum(
      self.runs[name] > 0 and self._trips(*match.groups()) is None
      for name, lines in self.computations.items()
      for line in lines
      if (match := _WHILE.search(line))
    )

  def _calls(self, name: str) -> list[tuple[str, int]]:
    calls = []
    for line in self.computations[name]:
      loop = _WHILE.search(line)
      if loop:
        trips = self._trips(*loop.groups())
        calls.append((loop[2], 1 if trips is None else trips))
        continue
      found = _CALLEE.findall(line)
      for branches in _BRANCHES.findall(line):
        found += [part.strip().lstrip("%") for part in branches.split(",")]
      calls += [(callee, 1) for callee in found]
    return [call for call in calls if call[0] in self.computations]

  def _trips(self, condition: str, body: str) -> int | None:
    """Trip count of a loop that counts up to a constant, else None."""
    found = _instructions(self.computations[condition])
    root = next(
      (line for line in self.computations[condition] if "ROOT" in line), ""
    )
    operands = _OPERANDS.search(root)
    if operands is None or "direction=LT" not in root:
      return None
    counter = _ELEMENT.search(found.get(operands[1], ""))
    limit = _CONSTANT.search(found.get(operands[2], ""))
    if counter is None or limit is None:
      return None
    return -(-int(limit[1]) // self._step(body, counter[1]))

  def _step(self, body: str, counter: str) -> int:
    """Increment of the loop's counter per iteration."""
    found = _instructions(self.computations[body])
    for line in found.values():
      operands = _OPERANDS.search(line) if " add(" in line else None
      if operands is None:
        continue
      element = _ELEMENT.search(found.get(operands[1], ""))
      step = _CONSTANT.search(found.get(operands[2], ""))
      if element and step and element[1] == counter:
        return max(1, int(step[1]))
    return 1


def parse(text: str) -> Module:
  """Reads `compiled.as_text()`."""
  computations: dict[str, tuple[str, ...]] = {}
  entry, name, lines = None, None, []
  for line in text.splitlines():
    head = _HEAD.match(line) if name is None else None
    if head:
      name, lines = head[2], []
      entry = name if head[1] else entry
    elif name is not None and _END.match(line):
      computations[name], name = tuple(lines), None
    elif name is not None:
      lines.append(line)
  if entry is None:
    raise ValueError("This is not the text of a compiled program: no ENTRY.")
  return Module(computations, entry)


def _instructions(lines: tuple[str, ...]) -> dict[str, str]:
  matches = (_INSTRUCTION.match(line) for line in lines)
  return {match[1]: match[2] for match in matches if match}
