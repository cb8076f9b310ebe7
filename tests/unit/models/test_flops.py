"""The formula against the matrix products that JAX traces."""

import math

import jax
import jax.numpy as jnp
import pytest

from calrec_jax.models import flops
from calrec_jax.models.decoder import Decoder
from calrec_jax.models.lora import Lora
from calrec_jax.models.tuning import Tuning, join
from tests.fixtures import model_toys

pytestmark = pytest.mark.heavy

LENGTH = 32.0  # One block of queries: every query meets every key.


def _products(jaxpr, times=1):
  """FLOPs of all products of a traced program, loops included."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      (left, _), _ = equation.params["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      inner = math.prod(shape[axis] for axis in left)
      total += 2 * times * inner * math.prod(equation.outvars[0].aval.shape)
    length = equation.params.get("length", 1)
    for value in equation.params.values():
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        total += _products(inner, times * length)
  return total


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_forward_and_backward(family):
  decoder, params = model_toys.decoder(**model_toys.FAMILIES[family])
  place = jnp.arange(int(LENGTH))[None]

  def logits(params):
    hidden = decoder.apply({"params": params}, place, place, place * 0 + 1)
    return decoder.apply({"params": params}, hidden, method="logits").sum()

  traced = jax.make_jaxpr(logits)(params).jaxpr
  config = decoder.config
  forward = flops.train_step_flops(
    config, tokens=LENGTH, loss_tokens=LENGTH, attended=LENGTH
  ) / 3  # fmt: skip
  assert _products(traced) == forward
  traced = jax.make_jaxpr(jax.grad(logits))(params).jaxpr
  # Scores are computed a second time in the backward pass, by choice.
  again = 2 * LENGTH**2 * config.heads * config.head_dim * config.layers
  assert _products(traced) == 3 * forward + again


@pytest.mark.parametrize(
  "trainable",
  [("lora_[ab]$",), ("wo/lora_b$",), ("mlp/w.*kernel",), ("embedding",)],
  ids=str,
)
@pytest.mark.parametrize("tied", [True, False])
def test_frozen_parameters_cost_no_gradient(trainable, tied):
  # Also the proof that none is computed.
  decoder, params = model_toys.decoder(
    kv_heads=2, tied_embeddings=tied, lora=Lora(rank=3, targets=("wo", "key"))
  )
  place = jnp.arange(int(LENGTH))[None]
  tuning = Tuning(trainable=trainable)
  trained, frozen = tuning.split(params)

  def logits(trained):
    params = {"params": join(trained, frozen)}
    hidden = decoder.apply(params, place, place, place * 0 + 1)
    return decoder.apply(params, hidden, method="logits").sum()

  config = decoder.config
  traced = jax.make_jaxpr(jax.grad(logits))(trained).jaxpr
  again = 2 * LENGTH**2 * config.heads * config.head_dim * config.layers
  assert _products(traced) == again + flops.train_step_flops(
    config,
    tokens=LENGTH,
    loss_tokens=LENGTH,
    attended=LENGTH,
    trained=tuning.trains,
  )


def test_only_what_is_counted_costs():
  config = Decoder(model_toys.config()).config
  count = lambda **changes: flops.train_step_flops(  # noqa: E731
    config, **{"tokens": 100.0, "loss_tokens": 40.0, "attended": 9.0, **changes}
  )
  more = count(loss_tokens=41.0) - count()
  assert more == pytest.approx(3 * 2 * config.width * config.vocab_size)
  assert count(tokens=200.0, loss_tokens=80.0) == 2 * count()
