"""Microbatches on eight devices: the numbers of one, and rows that stay."""

import functools
import re

import jax
import numpy as np
import optax
import pytest

from calrec_jax.models.objective import Objective
from calrec_jax.runtime import partitioning
from calrec_jax.runtime.partitioning import MeshShape
from calrec_jax.train import state as states
from calrec_jax.train import train_step
from tests.fixtures import model_toys

SAME = 1e-5  # Float32, sums in another order; relative to the largest entry.
OBJECTIVE = Objective(alpha=0.3, beta=0.2, loss_chunk_tokens=16)
OPTIMIZER = optax.sgd(1.0)  # An update is the gradient.
MESHES = {
  "data": MeshShape(data=8),
  "mixed": MeshShape(replica=2, data=1, fsdp=2, tensor=2),
}


@functools.cache
def decoder():
  return model_toys.decoder(kv_heads=4, tied_embeddings=False, layers=1)


@functools.cache
def batch():
  """Two rows for each of eight devices, some of them empty."""
  documents = model_toys.documents(count=18)
  rows = [documents[at : at + 2] for at in range(0, 18, 2)]
  return model_toys.pack(
    [[], *rows[:4], [], [], [], *rows[4:], [], [], []], 96, 9
  )


def state():
  _, params = decoder()
  return states.TrainState(
    step=np.zeros((), np.int32),
    params=params,
    opt_state=OPTIMIZER.init(params),
    rng=jax.random.key_data(jax.random.key(0)),
  )


def step(microbatches):
  return jax.jit(
    train_step.make_train_step(
      decoder()[0], OBJECTIVE, OPTIMIZER, microbatches=microbatches
    )
  )


@functools.cache
def alone():
  """Stepped state and metrics of the whole batch on one device."""
  return step(1)(state(), batch())


@pytest.mark.parametrize(
  "name", ["data", pytest.param("mixed", marks=pytest.mark.slow)]
)
def test_a_step_in_microbatches(name):
  mesh = partitioning.make_mesh(MESHES[name])
  rules = partitioning.logical_axis_rules()
  boxed = states.abstract_state(decoder()[0], OPTIMIZER)
  shardings = partitioning.state_shardings(boxed, mesh, rules)
  with partitioning.activate(mesh, rules):
    placed = (
      jax.device_put(state(), shardings),
      jax.device_put(batch(), partitioning.batch_sharding(mesh)),
    )
    program = step(2).lower(*placed).compile()
    found = program(*placed)
  for left, right in zip(*map(jax.tree.leaves, (found, alone())), strict=True):
    largest = np.abs(np.asarray(right)).max()
    np.testing.assert_allclose(left, right, atol=SAME * largest)
  text = program.as_text()
  assert_rows_stay(text)
  if name == "mixed":
    assert_gradients_are_summed_where_they_live(text)


def assert_rows_stay(text):
  """Of the rows only pooled vectors and ids travel, as in one big batch."""
  assert "all-to-all" not in text
  assert "collective-permute" not in text
  moves = re.findall(r"= \(?\w+\[([\d,]*)\][^=]*? all-gather", text)
  sizes = [
    np.prod([int(number) for number in shape.split(",") if number])
    for shape in moves
  ]
  width = decoder()[0].config.width
  assert max(sizes) <= batch().slot_items.size * width
  length = str(batch().tokens.shape[1])
  assert not any(length in shape.split(",") for shape in moves)


def assert_gradients_are_summed_where_they_live(text):
  """No device holds a whole gradient over the microbatches."""
  loops = re.findall(r"= \((.*)\) while\(", text)
  # A kernel of the MLP, [1, 16, 32], is split over fsdp and tensor.
  assert any("f32[1,8,16]" in loop for loop in loops)
  assert not any("f32[1,16,32]" in loop for loop in loops)
