"""The values of a row of the training log: means and speeds.

The sums that a preempted run has gathered since the last row are part of its
checkpoint (`state`, `resume`), so that the next row is that of a run that was
never stopped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from calrec_jax.metrics.weighted_sum import WeightedSum
from calrec_jax.models.families import ModelConfig, family_of
from calrec_jax.models.tuning import Tuning
from calrec_jax.runtime import chips
from calrec_jax.train.train_step import Metrics


class Meter:
  """Sums the metrics of the steps since the last report, and their time."""

  def __init__(self, decoder_config: ModelConfig, tuning: Tuning):
    self._config, self._tuning = decoder_config, tuning
    self._peak = chips.peak_flops()
    self._parts: list[Metrics] = []
    # Sums that an earlier run left unreported, and their number of steps.
    self._unreported: tuple[Metrics, int] = {}, 0
    self._row = self._unreported  # The last sums.
    self._since: float | None = None  # The first step compiles.
    self._timed = 0

  def add(self, metrics: Metrics) -> None:
    """Adds a step's metrics without waiting for them."""
    self._parts.append(metrics)
    if self._since is None:
      jax.block_until_ready(metrics)
      self._since = time.perf_counter()
    else:
      self._timed += 1

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Excludes the time inside from the speeds."""
    jax.block_until_ready(self._parts)
    began = time.perf_counter()
    yield
    if self._since is not None:
      self._since += time.perf_counter() - began

  def read(self) -> dict[str, float]:
    """Means since the last reading, and speeds; waits for the devices."""
    sums, steps = self._sum()
    seconds = time.perf_counter() - (self._since or 0.0)
    values = {key: value.host_mean() for key, value in sums.items()}
    if self._timed:
      steps_per_second = self._timed / seconds
      values["step_seconds"] = seconds / self._timed
      values["tokens_per_second"] = values["tokens"] * steps_per_second
      values["examples_per_second"] = values["examples"] * steps_per_second
      if self._peak:
        needed = family_of(self._config).train_step_flops(
          self._config,
          tokens=values["tokens"],
          # A Python float: JSON does not know NumPy's float32.
          loss_tokens=float(sums["loss_nig_nats"].weight) / steps,
          attended=values["attended_keys"],
          trained=self._tuning.trains,
        )
        utilisation = needed * steps_per_second / self._peak
        values["model_flop_utilisation"] = utilisation
    self._parts, self._timed, self._unreported = [], 0, ({}, 0)
    if self._since is not None:
      self._since = time.perf_counter()
    return values

  def state(self) -> dict[str, Any]:
    """Sums of the row of the last step, read or not, as JSON."""
    sums, steps = self._sum() if self._parts else self._row
    # float32 survives JSON exactly.
    pairs = {name: [float(x) for x in value] for name, value in sums.items()}
    return {"steps": steps, "sums": pairs}

  def resume(self, state: dict[str, Any]) -> None:
    """Restores the sums of a preempted run."""
    sums = {
      name: WeightedSum(*np.array(pair, np.float32))
      for name, pair in state["sums"].items()
    }
    self._unreported = self._row = sums, state["steps"]

  def _sum(self) -> tuple[Metrics, int]:
    """Sums since the last report and their number of steps; waits for them."""
    sums, steps = self._unreported
    for part in jax.device_get(self._parts):
      sums = {k: sums[k].merge(part[k]) if k in sums else part[k] for k in part}
    self._row = sums, steps + len(self._parts)
    return self._row
