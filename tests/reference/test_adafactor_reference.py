"""Adafactor against the paper's algorithm in NumPy, parameter by parameter.

Shazeer and Stern, 2018, algorithms 4 and 5: factored second moments for
matrices, whole ones for the rest, clipped updates, relative step sizes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.train import optimizers

SAME = 2e-5  # Float32 against float64, relative to the largest entry.
STEPS = 4
SHAPES = {
  "stacked": {"kernel": (3, 6, 8)},  # Layers, inputs, outputs.
  "matrix": {"kernel": (9, 5)},
  "thin": {"lora_a": (12, 2)},
  "norm": {"scale": (7,)},
}
FACTORED = ("stacked", "matrix")


def rate(step):
  return 0.1 / (1 + step)


def draw(seed, scale=1.0):
  numbers = np.random.default_rng(seed)
  return {
    name: {leaf: scale * numbers.normal(size=shape)}
    for name, parts in SHAPES.items()
    for leaf, shape in parts.items()
  }


def rms(x):
  return np.sqrt(np.mean(x * x))


def plain(params, gradients, settings):
  """Parameters after a step for each of the gradients."""
  moments = {}
  for step, of_step in enumerate(gradients):
    if settings["clip_norm"]:
      norm = np.sqrt(sum((g * g).sum() for g in leaves(of_step).values()))
      shrink = min(1.0, settings["clip_norm"] / norm)
    else:
      shrink = 1.0
    beta = 1 - (step + 1) ** -settings["decay_rate"]
    for name, parts in params.items():
      [(leaf, x)] = parts.items()
      g = shrink * of_step[name][leaf]
      square = g * g + 1e-30
      if name in FACTORED:
        row, column = moments.get(name, (0.0, 0.0))
        row = beta * row + (1 - beta) * square.mean(-1, keepdims=True)
        column = beta * column + (1 - beta) * square.mean(-2, keepdims=True)
        moments[name] = row, column
        v = row * column / row.mean(-2, keepdims=True)
      else:
        v = beta * moments.get(name, 0.0) + (1 - beta) * square
        moments[name] = v
      update = g / np.sqrt(v)
      if settings["update_clip"]:
        update = update / max(1.0, rms(update) / settings["update_clip"])
      size = max(1e-3, rms(x)) if settings["parameter_scale"] else 1.0
      decay = 0.0 if leaf == "scale" else settings["weight_decay"]
      parts[leaf] = x - rate(step) * (size * update + decay * x)
  return params


def leaves(tree):
  return {name: next(iter(parts.values())) for name, parts in tree.items()}


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"parameter_scale": False, "clip_norm": None},
    {"weight_decay": 0.3, "update_clip": None},
    {"decay_rate": 0.5, "clip_norm": 0.1},
  ],
  ids=str,
)
def test_steps_are_those_of_the_paper(changes):
  settings = {
    "decay_rate": 0.8,
    "parameter_scale": True,
    "update_clip": 1.0,
    "weight_decay": 0.0,
    "clip_norm": 1.0,
    **changes,
  }
  optimizer = optimizers.adafactor(rate, min_factored_size=5, **settings)
  # Gradients that grow, so that the clip of an update matters.
  gradients = [draw(seed, 3.0**seed) for seed in range(1, STEPS + 1)]
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), draw(0))
  state = optimizer.init(params)
  for gradient in gradients:
    gradient = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gradient)
    updates, state = optimizer.update(gradient, state, params)
    params = jax.tree.map(jnp.add, params, updates)
  wanted = leaves(plain(draw(0), gradients, settings))
  for name, found in leaves(params).items():
    np.testing.assert_allclose(
      found,
      wanted[name],
      rtol=0,
      atol=SAME * np.abs(wanted[name]).max(),
      err_msg=name,
    )


def test_factored_moments_are_rows_and_columns():
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), draw(0))
  state = optimizers.adafactor(rate, min_factored_size=5).init(params)
  held = sum(leaf.size for leaf in jax.tree.leaves(state))
  factored = 3 * (6 + 8) + (9 + 5)
  whole = 12 * 2 + 7
  # Optax keeps single numbers where a moment is not used, and two counters.
  unused = len(FACTORED) + 2 * (len(SHAPES) - len(FACTORED)) + 2
  assert held == factored + whole + unused
