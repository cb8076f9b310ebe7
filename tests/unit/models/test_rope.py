"""Rotary frequencies against the published formulas, pair by pair."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.models import rope

FLOAT32 = 1e-6


def test_llama3_scaling_follows_its_three_cases():
  scaling = rope.RopeScaling(
    kind="llama3",
    factor=8.0,
    low_frequency_factor=1.0,
    high_frequency_factor=4.0,
    original_length=8192,
  )
  found = rope.frequencies(64, 500_000.0, scaling)
  kinds = set()
  for pair in range(32):
    plain = 500_000.0 ** (-2 * pair / 64)
    wave = 2 * math.pi / plain
    if wave < 8192 / 4.0:
      wanted, kind = plain, "unchanged"
    elif wave > 8192 / 1.0:
      wanted, kind = plain / 8, "stretched"
    else:
      smooth = (8192 / wave - 1.0) / (4.0 - 1.0)
      wanted, kind = (1 - smooth) * plain / 8 + smooth * plain, "between"
    assert found[pair] == pytest.approx(wanted, rel=FLOAT32)
    kinds.add(kind)
  assert kinds == {"unchanged", "stretched", "between"}


def test_linear_scaling_divides_all():
  scaling = rope.RopeScaling(kind="linear", factor=4.0)
  np.testing.assert_allclose(
    rope.frequencies(8, 1e4, scaling), rope.frequencies(8, 1e4) / 4
  )


def test_scores_depend_on_the_distance_alone():
  draw = np.random.default_rng(0)
  query, key = jnp.asarray(draw.normal(size=(2, 1, 1, 8)), jnp.float32)
  radians = rope.frequencies(8, 1e4)

  def score(query_at, key_at):
    turned = [
      rope.rotate(part, *rope.rotation(jnp.array([at]), radians))
      for part, at in ((query, query_at), (key, key_at))
    ]
    return float(jnp.sum(turned[0] * turned[1]))

  assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-5)
  assert score(7, 3) != pytest.approx(score(7, 4), abs=1e-2)


def test_unknown_scaling_is_refused():
  with pytest.raises(ValueError, match=r"RopeScaling\.kind"):
    rope.RopeScaling(kind="yarn")
