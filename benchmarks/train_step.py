"""One optimizer step: the packed single pass beside plain two-pass training.

    python -m benchmarks.train_step --root=FOLDER --output=train_step.jsonl

FOLDER/NAME holds `interactions.csv.gz` and `items.jsonl.gz` of the domain
(gin/data/folders.gin). Packed rows come from the feed; the plain form
(`plain_two_pass`) gets the very same targets with the very same histories, one
a row, padded to the longest of the batch. Same model, parameters, optimizer.

First both forms must agree on the losses and on the norm of the gradient.
Then they are timed in turns, and medians are reported. Padding to the longest
of the batch, logits at target positions only, and attention without the upper
triangle are all granted to the plain form; real code often has none of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import plain_two_pass, token_accounts
from calrec_jax import config, partitioning, stages, train_step
from calrec_jax import state as states
from calrec_jax.data.batch import Batch
from calrec_jax.data.feed import OpenFeed
from calrec_jax.models.decoder import Decoder, DecoderConfig
from calrec_jax.models.objective import Objective

# Relative difference of two sums in another order, over some layers.
TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2}
_COMPARED = (
  "loss",
  "loss_nig_nats",
  "loss_tt_nats",
  "loss_ut_nats",
  "gradient_norm",
)
_FILES = ("mesh/cpu.gin", "data/folders.gin", "runs/train.gin")
_PACKAGES = ("calrec_jax", "jax", "jaxlib", "flax", "optax", "numpy")


class DisagreementError(ValueError):
  """The two forms do not compute the same."""


class Bench:
  """Both forms of the step over the same parameters.

  Attributes:
    config: of the decoder.
    batches: packed batches in NumPy.
    plain_batches: their examples, one a row.
  """

  def __init__(
    self,
    decoder_config: DecoderConfig,
    objective: Objective,
    optimizer: Any,
    batches: Sequence[Batch],
    seed: int = 0,
  ):
    if decoder_config.dropout:
      raise ValueError(
        "DecoderConfig.dropout must be 0: rows of two shapes cannot drop the "
        "same units, so the losses could not be compared."
      )
    self.config = decoder_config
    self.batches = list(batches)
    self.plain_batches = [
      plain_two_pass.pad(plain_two_pass.examples_of(batch)) for batch in batches
    ]
    self._decoder = Decoder(decoder_config)
    self._objective, self._optimizer = objective, optimizer
    mesh = partitioning.make_mesh(
      partitioning.MeshShape(), jax.local_devices()[:1]
    )
    boxed = states.abstract_state(self._decoder, optimizer)
    shardings = states.state_shardings(
      boxed, mesh, partitioning.logical_axis_rules()
    )
    self._state = states.create_state(self._decoder, optimizer, shardings, seed)
    self._packed = self._step(objective)
    self._plain = self._step(plain_two_pass.PlainObjective(objective))

  def check(self) -> dict[str, float]:
    """Runs both forms on every batch, which also compiles them.

    Returns:
      The largest relative difference of each loss and of the gradient's norm.

    Raises:
      DisagreementError: where one is beyond the tolerance.
    """
    worst = dict.fromkeys(_COMPARED, 0.0)
    for batch, plain_batch in zip(
      self.batches, self.plain_batches, strict=True
    ):
      packed = jax.device_get(self._packed(self._state, batch)[1])
      plain = jax.device_get(self._plain(self._state, plain_batch)[1])
      for name in _COMPARED:
        one, other = packed[name].host_mean(), plain[name].host_mean()
        difference = abs(one - other) / max(abs(one), abs(other), 1e-9)
        worst[name] = max(worst[name], difference)
    tolerance = TOLERANCES[self.config.dtype]
    for name, difference in worst.items():
      if not difference <= tolerance:
        raise DisagreementError(
          f"{name} of the two forms differs by {difference:.2g} of its value, "
          f"more than {tolerance}; what they do cannot be compared."
        )
    return worst

  def measure(self, repetitions: int) -> dict[str, dict[str, float]]:
    """Times both forms in turns.

    Returns:
      By form, medians over batches and repetitions: `step_seconds`,
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
    """Shares of a step's time, from steps that leave a part out.

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
    shares = {
      "packed_logits": 1 - median["packed without logits"] / median["packed"]
    }
    for part in plain_two_pass.PARTS:
      shares[f"plain_{part}"] = (
        1 - median[f"plain without {part}"] / median["plain"]
      )
    return shares

  def _step(self, objective: Any) -> Callable:
    return jax.jit(
      train_step.make_train_step(self._decoder, objective, self._optimizer)
    )

  def _time(self, step: Callable, batch: Any) -> tuple[float, float]:
    """Wall and CPU seconds of one step; the state stays as it was."""
    placed = jax.block_until_ready(jax.device_put(batch))
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(step(self._state, placed))
    return time.perf_counter() - wall, time.process_time() - cpu


def run(
  feed: OpenFeed,
  decoder_config: DecoderConfig,
  objective: Objective,
  optimizer: Any,
  *,
  batches: int,
  repetitions: int,
) -> dict[str, Any]:
  """Checks, measures and accounts.

  Args:
    feed: the first batches of it are used.
    decoder_config: with its vocabulary.
    objective: the losses.
    optimizer: of both forms.
    batches: different batches to measure.
    repetitions: of every batch.

  Returns:
    What `main` writes, but for the command and the machine.
  """
  packed = [feed.batch(step) for step in range(batches)]
  bench = Bench(decoder_config, objective, optimizer, packed)
  differences = bench.check()
  timed = bench.measure(repetitions)
  accounts = token_accounts.account(decoder_config, packed, bench.plain_batches)
  for name, measured in timed.items():
    speed = measured["examples_per_second"]
    needed = accounts[name]
    measured |= needed
    measured["tokens_per_second"] = speed * needed["tokens_per_example"]
    measured["real_tokens_per_second"] = (
      speed * needed["real_tokens_per_example"]
    )
    measured["flops_per_second"] = speed * needed["flops_per_example"]
  ratio = {
    key: timed["packed"][key] / timed["plain"][key]
    for key in ("examples_per_second",)
  } | {
    key: timed["plain"][key] / timed["packed"][key]
    for key in (
      "cpu_seconds_per_example",
      "flops_per_example",
      "tokens_per_example",
    )
  }
  stats = feed.stats
  return {
    "batches": batches,
    "repetitions": repetitions,
    "examples": [len(plain.slot_items) for plain in bench.plain_batches],
    "plain_row_tokens": [
      plain.tokens.shape[1] for plain in bench.plain_batches
    ],
    "largest_relative_difference": differences,
    "packed": timed["packed"],
    "plain": timed["plain"],
    "ratio": ratio,
    "share_of_time": bench.measure_parts(min(repetitions, 3)),
    "share_of_plain_flops": accounts["share_of_plain_flops"],
    "share_of_packed_flops": accounts["share_of_packed_flops"],
    "epoch": {
      "fill": stats.fill,
      "targets_per_row": stats.targets_per_row,
      "steps": stats.steps_per_epoch,
    },
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark from the command line."""
  arguments = _parse(argv)
  configuration = _configuration(arguments)
  with configuration.stage(None), config.explained():
    if arguments.dry_run:
      print(config.text())
      return 0
    stage = stages.Stage()
    caches = stages.open_caches(stage)
    shape = stage.decoder.for_vocabulary(stages.vocabulary_size(caches))
    row = run(
      stage.feed.open(caches),
      shape,
      stage.objective,
      stage.optimizer,
      batches=arguments.batches,
      repetitions=arguments.repetitions,
    )
    row = {
      "benchmark": "train_step",
      "schema": 1,
      "machine": _machine(),
      "versions": {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
      },
      "data": {cache.name: cache.fingerprint for cache in caches},
      "model": arguments.model,
      "decoder": dataclasses.asdict(shape),
      "row_tokens": stage.feed.row_tokens,
      "row_slots": stage.feed.row_slots,
      "rows": stage.feed.rows,
      **row,
    }
  print(describe(row))
  if arguments.output:
    path = pathlib.Path(arguments.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")
    print(f"\nadded to {path}")
  return 0


def describe(row: Mapping[str, Any]) -> str:
  """The row as text for people."""
  machine = row["machine"]
  lines = [
    f"{row['model']} on {', '.join(row['data'])}; {machine['device']}, "
    f"{machine['cores']} cores; packed rows of {row['row_tokens']} tokens, "
    f"plain rows of {_range(row['plain_row_tokens'])}; batches of "
    f"{_range(row['examples'])} examples",
    "agreement: largest relative difference "
    f"{max(row['largest_relative_difference'].values()):.1e}",
    "",
    f"{'':<34}{'packed':>12}{'plain':>12}",
  ]
  for label, key, form in (
    ("examples/s", "examples_per_second", ",.1f"),
    ("tokens/s, padding included", "tokens_per_second", ",.0f"),
    ("tokens/s, padding left out", "real_tokens_per_second", ",.0f"),
    ("tokens per example", "tokens_per_example", ",.0f"),
    ("  of them padding", "padding", ".1%"),
    ("CPU seconds per example", "cpu_seconds_per_example", ".4f"),
    ("matmul MFLOPs per example", "megaflops_per_example", ",.0f"),
    ("matmul GFLOP/s", "gigaflops_per_second", ",.1f"),
  ):
    cells = []
    for name in ("packed", "plain"):
      values = dict(row[name])
      values["megaflops_per_example"] = values["flops_per_example"] / 1e6
      values["gigaflops_per_second"] = values["flops_per_second"] / 1e9
      cells.append(f"{format(values[key], form):>12}")
    lines.append(f"{label:<34}{''.join(cells)}")
  lines += [
    "",
    f"packed over plain: {row['ratio']['examples_per_second']:.1f} times the "
    f"examples/s, 1/{row['ratio']['cpu_seconds_per_example']:.1f} of the CPU "
    f"time, 1/{row['ratio']['flops_per_example']:.1f} of the FLOPs",
    f"FLOPs of the plain form: {_shares(row['share_of_plain_flops'])}",
    f"FLOPs of the packed form: {_shares(row['share_of_packed_flops'])}",
    f"measured shares of time: {_shares(row['share_of_time'])}",
  ]
  return "\n".join(lines)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.train_step",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--root", required=True, help="folder of the domain")
  parser.add_argument("--domain", default="amazon2014_beauty")
  parser.add_argument("--model", default="models/tiny.gin", metavar="GIN_FILE")
  parser.add_argument("--rows", type=int, default=4, help="of a packed batch")
  parser.add_argument("--row_tokens", type=int, default=512)
  parser.add_argument("--row_slots", type=int, default=24)
  parser.add_argument("--batches", type=int, default=3)
  parser.add_argument("--repetitions", type=int, default=5)
  parser.add_argument("--output", help="a line of JSON is added to this file")
  return config.parse_arguments(parser, argv)


def _configuration(arguments: argparse.Namespace) -> config.Configuration:
  given = arguments.configuration
  lengths = {"tokens": arguments.row_tokens, "slots": arguments.row_slots}
  bindings = {
    "ROOT": arguments.root,
    "DOMAINS": (arguments.domain,),
    # Only the order of the events counts here.
    "POSITIONS": (arguments.domain,),
    "MIXTURE_OR_TASK_NAME": arguments.domain,
    "MODEL_DIR": "unused",
    "TRAIN_STEPS": 1000,
    "BATCH_SIZE": arguments.rows,
    "TASK_FEATURE_LENGTHS": lengths,
  }
  return dataclasses.replace(
    given,
    files=(arguments.model, *_FILES, *given.files),
    bindings=(
      *(f"{name} = {value!r}" for name, value in bindings.items()),
      *given.bindings,
    ),
  )


def _machine() -> dict[str, Any]:
  return {
    "device": jax.devices()[0].device_kind,
    "platform": jax.default_backend(),
    "cores": len(os.sched_getaffinity(0)),
    "processor": _processor(),
    "system": platform.platform(),
  }


def _processor() -> str:
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text("utf-8").splitlines()
  except OSError:
    return platform.processor()
  names = [line for line in lines if line.startswith("model name")]
  return names[0].partition(":")[2].strip() if names else platform.machine()


def _shares(shares: Mapping[str, float]) -> str:
  return ", ".join(
    f"{name.replace('_', ' ')} {share:.0%}" for name, share in shares.items()
  )


def _range(values: Iterable[int]) -> str:
  low, high = min(values), max(values)
  return str(low) if low == high else f"{low} to {high}"


if __name__ == "__main__":
  sys.exit(main())
