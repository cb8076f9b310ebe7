"""Optimizers and learning-rate schedules, by their gin names."""

from __future__ import annotations

from typing import Any

import gin
import jax
import optax

# Norm scales and biases are not decayed, by the last name of their path.
_UNDECAYED = ("scale", "bias")


@gin.configurable
def warmup_cosine(
  peak: float,
  steps: int,
  warmup_steps: int = 100,
  final_fraction: float = 0.1,
) -> optax.Schedule:
  """Linear warm-up, then a cosine down to a fraction of the peak.

  Args:
    peak: highest learning rate.
    steps: updates of the whole stage, the warm-up included.
    warmup_steps: updates of the warm-up; at most half of `steps` is used, so
      that a run shortened for a test still learns.
    final_fraction: learning rate at the end, as a fraction of the peak.
  """
  warmup_steps = min(warmup_steps, max(1, steps // 2))
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=peak,
    warmup_steps=warmup_steps,
    decay_steps=max(steps, warmup_steps + 1),
    end_value=peak * final_fraction,
  )


@gin.configurable
def constant(value: float) -> optax.Schedule:
  """The same learning rate at every step."""
  return optax.constant_schedule(value)


@gin.configurable
def adamw(
  learning_rate: optax.Schedule,
  b1: float = 0.9,
  b2: float = 0.98,
  eps: float = 1e-8,
  weight_decay: float = 0.01,
  clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
  """AdamW behind a clip of the global gradient norm.

  Args:
    learning_rate: a schedule over steps.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    weight_decay: decoupled; norm scales and biases are left out.
    clip_norm: gradients are scaled down to this global norm; None keeps them.
  """
  transformations = [
    optax.adamw(
      learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=_decayed
    )
  ]
  if clip_norm is not None:
    transformations.insert(0, optax.clip_by_global_norm(clip_norm))
  return optax.chain(*transformations)


def _decayed(params: Any) -> Any:
  return jax.tree_util.tree_map_with_path(
    lambda path, _: (
      not any(getattr(entry, "key", None) in _UNDECAYED for entry in path)
    ),
    params,
  )


CONFIGURABLES = (adamw, warmup_cosine, constant)
