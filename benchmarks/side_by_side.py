"""Both forms of the training step on the same parameters, timed in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import plain_two_pass, token_accounts
from calrec_jax.data.feed.batch import Batch
from calrec_jax.models.decoder import Decoder, DecoderConfig
from calrec_jax.models.objective import Objective
from calrec_jax.runtime import partitioning
from calrec_jax.train import state as states
from calrec_jax.train import train_step

# Relative difference of sums in different order, over several layers.
TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2}
_COMPARED = (
  "loss",
  "loss_nig_nats",
  "loss_tt_nats",
  "loss_ut_nats",
  "gradient_norm",
)


class DisagreementError(ValueError):
  """The two forms do not compute the same results."""


class Bench:
  """Both forms of the step on the same parameters.

  Attributes:
    config: Shape of the decoder.
    batches: Packed batches of NumPy arrays.
    plain_batches: Their examples, one per row.
    state: Parameters and optimizer state, restored after every step.
  """

  def __init__(
    self,
    decoder_config: DecoderConfig,
    objective: Objective,
    optimizer: Any,
    batches: Sequence[Batch],
    seed: int = 0,
  ):
    """Takes packed batches of NumPy arrays, and extracts their examples."""
    if decoder_config.dropout:
      raise ValueError(
        "DecoderConfig.dropout must be 0: rows of different shapes cannot have "
        "the same dropout, so the losses could not be compared."
      )
    self.config = decoder_config
    self.batches = list(batches)
    self.plain_batches = [
      plain_two_pass.pad(plain_two_pass.examples_of(batch)) for batch in batches
    ]
    self._decoder = Decoder(decoder_config)
    self._objective, self._optimizer = objective, optimizer
    self._mesh = partitioning.make_mesh(
      partitioning.MeshShape(), jax.local_devices()[:1]
    )
    boxed = states.abstract_state(self._decoder, optimizer)
    shardings = partitioning.state_shardings(
      boxed, self._mesh, partitioning.logical_axis_rules()
    )
    self.state = states.create_state(self._decoder, optimizer, shardings, seed)
    self._packed = self._step(objective)
    self._plain = self._step(plain_two_pass.PlainObjective(objective))

  def check(self) -> dict[str, float]:
    """Runs both forms on every batch, which also compiles them.

    Returns:
      The largest relative difference of each loss and of the gradient norm.

    Raises:
      DisagreementError: If one exceeds the tolerance.
    """
    worst = dict.fromkeys(_COMPARED, 0.0)
    for batch, plain_batch in zip(
      self.batches, self.plain_batches, strict=True
    ):
      packed = jax.device_get(self._packed(batch)[1])
      plain = jax.device_get(self._plain(plain_batch)[1])
      for name in _COMPARED:
        one, other = packed[name].host_mean(), plain[name].host_mean()
        difference = abs(one - other) / max(abs(one), abs(other), 1e-9)
        worst[name] = max(worst[name], difference)
    tolerance = TOLERANCES[self.config.dtype]
    for name, difference in worst.items():
      if not difference <= tolerance:
        raise DisagreementError(
          f"{name} of the two forms differs by a relative {difference:.2g}, "
          f"more than {tolerance}, so their costs cannot be compared."
        )
    return worst

  def measure(self, repetitions: int) -> dict[str, dict[str, float]]:
    """Times both forms in turns.

    Returns:
      Medians over batches and repetitions for each form: `step_seconds`,
      `cpu_seconds` of all threads, `examples_per_second`.
    """
    forms = {
      "packed": (self._packed, self.batches),
      "plain": (self._plain, self.plain_batches),
    }
    rows: dict[str, list[tuple[float, float, int]]] = {
      name: [] for name in forms
    }
    for _ in range(repetitions):
      for at, plain_batch in enumerate(self.plain_batches):
        examples = len(plain_batch.slot_items)
        for name, (step, batches) in forms.items():
          wall, cpu = self._time(step, batches[at])
          rows[name].append((wall, cpu, examples))
    return {
      name: {
        "step_seconds": statistics.median(wall for wall, _, _ in timed),
        "cpu_seconds_per_example": statistics.median(
          cpu / examples for _, cpu, examples in timed
        ),
        "examples_per_second": statistics.median(
          examples / wall for wall, _, examples in timed
        ),
      }
      for name, timed in rows.items()
    }

  def measure_parts(self, repetitions: int) -> dict[str, float]:
    """Fractions of a step's time, from steps that omit a part.

    Measured on the first batch. A packed batch without loss weights runs the
    same program, which skips all logits.
    """
    batch, plain_batch = self.batches[0], self.plain_batches[0]
    silent = batch._replace(loss_weights=np.zeros_like(batch.loss_weights))
    runs = {
      "packed": (self._packed, batch),
      "packed without logits": (self._packed, silent),
      "plain": (self._plain, plain_batch),
    }
    for part in plain_two_pass.PARTS:
      skipping = plain_two_pass.PlainObjective(self._objective, skip=(part,))
      runs[f"plain without {part}"] = (self._step(skipping), plain_batch)
    for step, argument in runs.values():
      self._time(step, argument)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
      for name, (step, argument) in runs.items():
        seconds[name].append(self._time(step, argument)[0])
    median = {name: statistics.median(each) for name, each in seconds.items()}
    fractions = {
      "packed_logits": 1 - median["packed without logits"] / median["packed"]
    }
    for part in plain_two_pass.PARTS:
      fractions[f"plain_{part}"] = (
        1 - median[f"plain without {part}"] / median["plain"]
      )
    return fractions

  def _step(self, objective: Any) -> Callable[[Any], Any]:
    """A compiled step from the same state, on the mesh as in training."""
    step = jax.jit(
      train_step.make_train_step(self._decoder, objective, self._optimizer)
    )

    def run(batch: Any) -> Any:
      rules = partitioning.logical_axis_rules()
      with partitioning.activate(self._mesh, rules):
        return step(self.state, batch)

    return run

  def _time(self, step: Callable, batch: Any) -> tuple[float, float]:
    """Wall and CPU seconds of one step; the state is unchanged."""
    placed = jax.block_until_ready(jax.device_put(batch))
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(step(placed))
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(bench: Bench, repetitions: int) -> dict[str, Any]:
  """Checks and measures both forms.

  Args:
    bench: Both forms.
    repetitions: Repetitions of every batch.

  Returns:
    The row of `train_step.main`, without settings and machine.
  """
  differences = bench.check()
  timed = bench.measure(repetitions)
  parts = bench.measure_parts(min(repetitions, 3))
  accounts = token_accounts.account(
    bench.config, bench.batches, bench.plain_batches
  )
  forms = {name: _with_rates(timed[name], accounts[name]) for name in timed}
  plain_batches = bench.plain_batches
  return {
    "batches": len(bench.batches),
    "repetitions": repetitions,
    "examples": [len(plain.slot_items) for plain in plain_batches],
    "plain_row_tokens": [plain.tokens.shape[1] for plain in plain_batches],
    "largest_relative_difference": differences,
    **forms,
    "packed_over_plain": {
      key: forms["packed"][key] / forms["plain"][key]
      for key in (
        "examples_per_second",
        "cpu_seconds_per_example",
        "flops_per_example",
        "tokens_per_example",
      )
    },
    "share_of_time": parts,
    "share_of_plain_flops": accounts["share_of_plain_flops"],
    "share_of_packed_flops": accounts["share_of_packed_flops"],
  }


def _with_rates(
  timed: Mapping[str, float], needed: Mapping[str, float]
) -> dict[str, float]:
  speed = timed["examples_per_second"]
  return {
    **timed,
    **needed,
    "tokens_per_second": speed * needed["tokens_per_example"],
    "real_tokens_per_second": speed * needed["real_tokens_per_example"],
    "flops_per_second": speed * needed["flops_per_example"],
  }
