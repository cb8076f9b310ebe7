"""The benchmark of microbatches counts what it says it counts."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import accumulation
from calrec_jax.data.feed.batch import Batch
from calrec_jax.models.objective import Objective
from calrec_jax.models.tuning import EVERYTHING
from tests.fixtures import model_toys


def test_flops_of_loops_branches_and_gradients():
  weights, rows = jnp.ones((3, 5, 5)), jnp.ones((2, 5))

  def loss(weights, rows, taken):
    rows, _ = jax.lax.scan(lambda x, w: (x @ w, None), rows, weights)
    more = jax.lax.cond(taken, lambda: rows @ weights[0], lambda: rows)
    return jnp.sum(more)

  def counted(function):
    program = jax.jit(function).trace(weights, rows, jnp.array(True))
    return accumulation.matmul_flops(program.jaxpr.jaxpr, taken=0.25)

  product = 2 * 2 * 5 * 5
  assert counted(loss) == product * (3 + 0.25)
  # A weight's gradient and an input's: but for the first input, all of them.
  assert counted(jax.grad(loss)) >= product * (3 + 5 + 0.25)
  with pytest.raises(ValueError, match="dynamic trip count"):
    counted(lambda *_: jax.lax.while_loop(lambda x: x < 1, lambda x: x, 0))


def test_chunks_are_skipped_by_all_rows_of_a_microbatch():
  batch = Batch.empty(4, 10, 1)
  for row, num_targets in enumerate((1, 4, 5, 0)):
    batch.loss_weights[row, :num_targets] = 1
  # Chunks of 4, of which a row has 3; the longest row decides.
  assert accumulation.computed_chunks(batch, 4, 1) == pytest.approx(2 / 3)
  assert accumulation.computed_chunks(batch, 4, 2) == pytest.approx(1.5 / 3)


def test_steps_that_differ_are_not_compared():
  rows = [
    {"microbatches": n, "loss": loss, "gradient_norm": 1.0}
    for n, loss in ((1, 2.0), (2, 2.1))
  ]
  with pytest.raises(ValueError, match="in 2 microbatches"):
    accumulation._refuse_differences(rows, 1e-2)


@pytest.mark.slow
def test_a_row_of_the_table():
  stage = types.SimpleNamespace(
    decoder=model_toys.config(),
    objective=Objective(loss_chunk_tokens=16),
    optimizer=optax.sgd(0.1),
    tuning=EVERYTHING,
    seed=0,
  )
  rows = [[document] for document in model_toys.documents(count=8)]
  batch = jax.tree.map(np.asarray, model_toys.pack(rows, 64, 6))
  whole, parts = accumulation.measure(stage, batch, (1, 4), repetitions=1)
  assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
  assert parts["temporary_bytes"] < 0.6 * whole["temporary_bytes"]
  assert 1 < parts["matmul_flops"] / whole["matmul_flops"] < 4 / 3
  text = accumulation.describe(
    {
      "model": "tiny",
      "data": {"shop": "0"},
      "machine": {"device": "cpu", "cores": 1},
      "rows": 8,
      "row_tokens": 64,
      "steps": [whole, parts],
    }
  )
  assert "microbatches" in text
