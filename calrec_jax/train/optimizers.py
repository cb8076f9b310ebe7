"""Optimizers and learning-rate schedules, by their gin names."""

from __future__ import annotations

from typing import Any

import gin
import jax
import jax.numpy as jnp
import optax

from calrec_jax.errors import InputError

# Parameters without decay, by the last name of their path.
_UNDECAYED = ("scale", "bias")


@gin.configurable
def warmup_cosine(
  peak: float,
  steps: int | None,
  warmup_steps: int = 100,
  final_fraction: float = 0.1,
) -> optax.Schedule:
  """Linear warm-up, then a cosine down to a fraction of the peak.

  Args:
    peak: Highest learning rate.
    steps: Number of updates of the whole stage, including the warm-up.
    warmup_steps: Number of updates of the warm-up; at most half of `steps`, so
      that a run shortened for a test still learns.
    final_fraction: Learning rate at the end, as a fraction of the peak.
  """
  steps = _end("warmup_cosine", steps)
  warmup_steps = min(warmup_steps, max(1, steps // 2))
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=peak,
    warmup_steps=warmup_steps,
    decay_steps=max(steps, warmup_steps + 1),
    end_value=peak * final_fraction,
  )


@gin.configurable
def warmup_linear(
  peak: float,
  steps: int | None,
  warmup_steps: int = 100,
  final_fraction: float = 0.0,
) -> optax.Schedule:
  """Linear warm-up and decay; arguments as those of `warmup_cosine`."""
  steps = _end("warmup_linear", steps)
  warmup_steps = min(warmup_steps, max(1, steps // 2))
  decay_steps = max(1, steps - warmup_steps)
  return optax.join_schedules(
    [
      optax.linear_schedule(0.0, peak, warmup_steps),
      optax.linear_schedule(peak, peak * final_fraction, decay_steps),
    ],
    [warmup_steps],
  )


@gin.configurable
def warmup_constant(peak: float, warmup_steps: int = 100) -> optax.Schedule:
  """Linear warm-up, then the same rate for as long as the training takes.

  Args:
    peak: Learning rate after the warm-up.
    warmup_steps: Number of updates of the warm-up.
  """
  return optax.linear_schedule(0.0, peak, warmup_steps)


@gin.configurable
def rsqrt(
  peak: float, warmup_steps: int = 100, linear_warmup: bool = False
) -> optax.Schedule:
  """Decay with the root of the step: peak * sqrt(w / max(step, w)).

  t5x's `rsqrt_normalized_decay`; its `constant * rsqrt_decay` with a base rate
  b is this with peak = b / sqrt(w).

  Args:
    peak: Highest learning rate.
    warmup_steps: Number of updates w before the decay.
    linear_warmup: Whether the rate increases from 0 during these updates;
      otherwise it is constant.
  """
  if warmup_steps < 1:
    raise InputError(
      f"rsqrt.warmup_steps = {warmup_steps} must be at least 1: the learning "
      "rate decays with the root of step / warmup_steps."
    )

  def schedule(step: jax.typing.ArrayLike) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    rate = peak * jnp.sqrt(warmup_steps / jnp.maximum(step, warmup_steps))
    warmup = jnp.minimum(1.0, step / warmup_steps)
    return rate * warmup if linear_warmup else rate

  return schedule


@gin.configurable
def constant(value: float) -> optax.Schedule:
  """The same learning rate at every step.

  In gin files it is `optimizers.constant`, as gin has a constant of its own.
  """
  return optax.constant_schedule(value)


@gin.configurable
def adamw(
  learning_rate: optax.ScalarOrSchedule,
  b1: float = 0.9,
  b2: float = 0.98,
  eps: float = 1e-8,
  weight_decay: float = 0.01,
  clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
  """AdamW after a clip of the global gradient norm.

  Args:
    learning_rate: Schedule over steps, or a constant.
    b1: Decay of the first moment.
    b2: Decay of the second moment.
    eps: Constant added to the root of the second moment.
    weight_decay: Decoupled decay, not of norm scales and biases.
    clip_norm: Global norm that gradients are clipped to; None does not clip.
  """
  return _after_clip(
    clip_norm,
    optax.adamw(
      learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=_decayed
    ),
  )


@gin.configurable
def adafactor(
  learning_rate: optax.Schedule,
  decay_rate: float = 0.8,
  parameter_scale: bool = True,
  update_clip: float | None = 1.0,
  min_factored_size: int = 128,
  weight_decay: float = 0.0,
  clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
  """Adafactor (Shazeer and Stern, 2018), without a first moment.

  The second moment is stored as the means of its rows and columns, over the two
  longest axes of a parameter. Stacked layers count as one parameter in a root
  mean square, that is, for `parameter_scale` and `update_clip`.

  Args:
    learning_rate: Schedule over steps. With `parameter_scale` it is
      relative: T5 was fine-tuned at a constant 1e-3.
    decay_rate: Exponent r: at step t the second moment decays by 1 - t ** -r.
    parameter_scale: Whether an update is multiplied by the root mean square of
      its parameter, but at least 1e-3. With LoRA, whose B starts at zero, False
      learns faster.
    update_clip: Root mean square that an update is clipped to before the
      learning rate; at least 1, or None.
    min_factored_size: Size of the second-longest axis below which the second
      moment is not factored.
    weight_decay: Decoupled decay, times the learning rate, as in `adamw`.
    clip_norm: Global norm that gradients are clipped to; None does not clip.
  """
  return _after_clip(
    clip_norm,
    optax.adafactor(
      learning_rate,
      min_dim_size_to_factor=min_factored_size,
      decay_rate=decay_rate,
      multiply_by_parameter_scale=parameter_scale,
      clipping_threshold=update_clip,
      # Unlike AdamW's, Optax does not multiply it by the learning rate.
      weight_decay_rate=(lambda step: weight_decay * learning_rate(step))
      if weight_decay
      else None,
      weight_decay_mask=_decayed,
    ),
  )


def _end(schedule: str, steps: int | None) -> int:
  """The number of steps of a schedule that decays."""
  if steps is None:
    raise InputError(
      f"{schedule}.steps = None: a learning rate that decays needs an end. Set "
      "TRAIN_STEPS, or bind adamw.learning_rate = @warmup_constant()."
    )
  return steps


def _after_clip(
  clip_norm: float | None, optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
  if clip_norm is None:
    return optax.chain(optimizer)
  return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def _decayed(params: Any) -> Any:
  return jax.tree_util.tree_map_with_path(
    lambda path, _: (
      not any(getattr(entry, "key", None) in _UNDECAYED for entry in path)
    ),
    params,
  )


CONFIGURABLES = (
  adamw,
  adafactor,
  warmup_cosine,
  warmup_linear,
  warmup_constant,
  rsqrt,
  constant,
)
