"""Rows of the log are the same to the bit, wherever a run was stopped."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.metrics.weighted_sum import WeightedSum
from calrec_jax.models import flops as decoder_flops
from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.models.tuning import EVERYTHING
from calrec_jax.runtime import chips
from calrec_jax.train.meter import Meter

STEPS = 7
TIMINGS = {"step_seconds", "tokens_per_second", "examples_per_second"}


def metrics(step):
  numbers = np.random.default_rng(step).random(6, np.float32) * 1e3
  totals, weights = numbers[:3], numbers[3:]
  return {
    name: WeightedSum(jnp.asarray(total), jnp.asarray(weight))
    for name, total, weight in zip(
      ("loss", "tokens", "examples"), totals, weights, strict=True
    )
  }


def new():
  return Meter(None, EVERYTHING)


def row(meter):
  return {
    name: value for name, value in meter.read().items() if name not in TIMINGS
  }


def after(meter, steps):
  for step in steps:
    meter.add(metrics(step))
  return meter


def handed_on(meter):
  """A meter in another process, which knows what went through a file."""
  other = new()
  other.resume(json.loads(json.dumps(meter.state())))
  return other


def test_a_row_is_the_sum_over_its_steps():
  found = row(after(new(), range(STEPS)))
  for name in found:
    parts = [metrics(step)[name] for step in range(STEPS)]
    total = sum(np.float64(part.total) for part in parts)
    weight = sum(np.float64(part.weight) for part in parts)
    np.testing.assert_allclose(found[name], total / weight, rtol=1e-6)


@pytest.mark.parametrize("stop", range(1, STEPS + 1))
def test_a_stop_within_a_row_does_not_change_it(stop):
  meter = handed_on(after(new(), range(stop)))
  assert row(after(meter, range(stop, STEPS))) == row(
    after(new(), range(STEPS))
  )


def test_a_stop_after_a_row_was_read_lets_it_be_read_again():
  meter = after(new(), range(STEPS))
  read = row(meter)
  again = handed_on(handed_on(meter))  # Also if nothing happened between.
  assert row(again) == read
  # The next row knows nothing of it.
  assert row(after(again, range(3))) == row(after(new(), range(3)))


def test_the_first_step_is_in_no_speed():
  meter = after(new(), range(1))
  assert "step_seconds" not in meter.read()
  assert "step_seconds" in after(meter, range(1)).read()
  stopped = handed_on(after(new(), range(2)))
  assert "step_seconds" not in stopped.read()
  assert "step_seconds" not in after(stopped, range(1)).read()


def test_a_row_with_the_utilisation_of_a_known_device_becomes_json(monkeypatch):
  """Only where the peak is known, which no CPU's is, is there such a value."""
  monkeypatch.setattr(chips, "peak_flops", lambda: 1e12)
  config = DecoderConfig(vocab_size=128)
  meter = Meter(config, EVERYTHING)
  for step in range(3):
    values = metrics(step)
    meter.add(
      {
        **values,
        "attended_keys": values["tokens"],
        "loss_nig_nats": values["loss"],
      }
    )
  found = json.loads(json.dumps(meter.read()))
  flops = decoder_flops.train_step_flops(
    config,
    tokens=found["tokens"],
    loss_tokens=sum(float(metrics(step)["loss"].weight) for step in range(3))
    / 3,
    attended=found["attended_keys"],
  )
  np.testing.assert_allclose(
    found["model_flop_utilisation"],
    flops / found["step_seconds"] / 1e12,
    rtol=1e-5,
  )
