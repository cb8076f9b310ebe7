"""The mean of the parameters: its weights, what is saved, what is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.errors import InputError
from calrec_jax.train.averaging import Averaging
from calrec_jax.train.state import TrainState
from tests.fixtures import checkpoint_toys

TOLERANCE = 1e-6


def mean_of(values, exponent):
  averaging = Averaging(exponent=exponent)
  average = {"w": jnp.zeros(3)}  # The first step replaces what it starts from.
  for step, value in enumerate(values, start=1):
    average = averaging.update(average, {"w": value}, jnp.asarray(step))
  return np.asarray(average["w"])


def test_with_exponent_0_it_is_the_arithmetic_mean():
  values = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
  np.testing.assert_allclose(
    mean_of(values, 0), values.mean(axis=0), atol=TOLERANCE
  )


@pytest.mark.parametrize("exponent", [1.0, 8.0])
def test_later_steps_weigh_more(exponent):
  values = np.random.default_rng(1).normal(size=(30, 3))
  # The weight of step t in closed form: (t + e - 1)! / (t - 1)!.
  steps = np.arange(1, 31, dtype=np.float64)
  weights = np.prod([steps + more for more in range(int(exponent))], axis=0)
  expected = weights @ values / weights.sum()
  np.testing.assert_allclose(
    mean_of(values.astype(np.float32), exponent), expected, atol=TOLERANCE
  )


def test_a_negative_exponent_is_refused():
  with pytest.raises(InputError, match="exponent"):
    Averaging(exponent=-1.0)


def test_a_checkpoint_holds_the_mean_and_what_training_goes_on_from():
  params, mean = (checkpoint_toys.make_params(shift) for shift in (1.0, 5.0))
  # Frozen parameters have no mean.
  state = checkpoint_toys.make_state(3, params)._replace(
    average={"embed": mean["embed"]}
  )
  tree = state.on_disk()
  assert jax.tree.all(
    jax.tree.map(
      np.array_equal,
      tree["target"],
      {"embed": mean["embed"], "norm": params["norm"]},
    )
  )
  again = TrainState.from_disk(tree)
  assert jax.tree.structure(again) == jax.tree.structure(state)
  assert jax.tree.all(jax.tree.map(np.array_equal, again, state))


def test_without_a_mean_a_checkpoint_is_as_before():
  state = checkpoint_toys.make_state(3)
  tree = state.on_disk()
  assert set(tree["state"]) == {"step", "param_states"}
  assert TrainState.from_disk(tree) is not None
  assert state.model is state.params
