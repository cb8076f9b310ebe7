"""Matrix FLOPs that a traced program executes, exactly.

The compiler counts the body of a loop once, but a traced program has the
lengths of its scans. Everything executed counts, including what a backward pass
recomputes and masked products. The most expensive branch of a conditional
counts, and one iteration of a loop with a dynamic trip count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core
from jax.interpreters import partial_eval

from calrec_jax.models import splash


def count(program: Any) -> float:
  """FLOPs of all devices together; a multiply-add counts as two.

  Args:
    program: Closed jaxpr, such as `jax.jit(...).trace(...).jaxpr`.
  """
  jaxpr = getattr(program, "jaxpr", program)
  # The compiler removes dead code.
  live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _count(live)


def _count(jaxpr: Any, scope: str = "") -> float:
  return sum(_equation(equation, scope) for equation in jaxpr.eqns)


def _equation(equation: Any, outer: str) -> float:
  name, params = equation.primitive.name, equation.params
  # The scopes of an inner program do not contain the outer ones.
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
    # Its body is the work of one device on its shard.
    manual = params.get("newly_manual_axes") or params["manual_axes"]
    return total * math.prod(params["mesh"].shape[axis] for axis in manual)
  if name == "pallas_call":
    return total * _kernel_runs(params["grid_mapping"].grid, scope)
  return total


def _kernel_runs(grid: tuple[int, ...], scope: str) -> int:
  """Number of runs of a kernel's body; skipped blocks do not count."""
  executed = splash.EXECUTED.search(scope)
  if executed is None:
    return math.prod(grid)
  # The last loops are over heads, blocks of queries, and blocks of keys.
  return int(executed[1]) * math.prod(grid[:-3])


def _inner(params: dict[str, Any]) -> Iterator[Any]:
  """Jaxprs in an equation's parameters."""
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, core.Jaxpr):
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
