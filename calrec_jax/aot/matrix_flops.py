"""Matrix FLOPs that a traced program executes, exactly.

The compiler's own count takes the body of a loop once, however often it runs.
A traced program still says how long its scans are. Everything counts that is
executed: what is computed again in a backward pass, and products with what a
mask hides. Of a branch the dearest side counts; of a loop whose length is only
known on the device, one turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.interpreters import partial_eval

from calrec_jax.models import splash


def count(program: Any) -> float:
  """FLOPs of all devices together; a multiply-add is two.

  Args:
    program: Closed jaxpr, as `jax.jit(...).trace(...).jaxpr`.
  """
  jaxpr = getattr(program, "jaxpr", program)
  # What nobody reads, the compiler leaves out.
  live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _count(live)


def _count(jaxpr: Any, scope: str = "") -> float:
  return sum(_equation(equation, scope) for equation in jaxpr.eqns)


def _equation(equation: Any, outer: str) -> float:
  name, params = equation.primitive.name, equation.params
  # An inner program's scopes begin anew.
  scope = f"{outer}/{equation.source_info.name_stack}"
  if name == "dot_general":
    return _dot(equation)
  if name == "conv_general_dilated":
    return _convolution(equation)
  inner = [_count(jaxpr, scope) for jaxpr in _inner(params)]
  if name == "cond":
    return max(inner, default=0.0)
  total = sum(inner)
  if name == "scan":
    return total * params["length"]
  if name == "shard_map":
    # Its body is what a device does with its share.
    manual = params.get("newly_manual_axes") or params["manual_axes"]
    return total * math.prod(params["mesh"].shape[axis] for axis in manual)
  if name == "pallas_call":
    return total * _turns(params["grid_mapping"].grid, scope)
  return total


def _turns(grid: tuple[int, ...], scope: str) -> int:
  """How often a kernel's body runs; blocks that it leaves out do not count."""
  stated = splash.EXECUTED.search(scope)
  if stated is None:
    return math.prod(grid)
  # Heads and blocks of queries and of keys are the last of its loops.
  return int(stated[1]) * math.prod(grid[:-3])


def _inner(params: dict[str, Any]) -> Iterator[Any]:
  """Programs that an equation runs."""
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      if isinstance(item, jax.extend.core.ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, jax.extend.core.Jaxpr):
        yield item


def _dot(equation: Any) -> float:
  (contracted, _), _ = equation.params["dimension_numbers"]
  left = equation.invars[0].aval.shape
  depth = math.prod(left[axis] for axis in contracted)
  return 2.0 * math.prod(equation.outvars[0].aval.shape) * depth


def _convolution(equation: Any) -> float:
  kernel = equation.invars[1].aval.shape
  features = equation.params["dimension_numbers"].rhs_spec[0]
  depth = math.prod(kernel) / kernel[features]
  return 2.0 * math.prod(equation.outvars[0].aval.shape) * depth
