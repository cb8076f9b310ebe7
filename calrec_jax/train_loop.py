"""The loop of one stage: feed, step, telemetry, validation, checkpoints.

Reads top to bottom in the order in which things happen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Iterator
from typing import Any

import jax

from calrec_jax import (
  checkpoints,
  config,
  lineage,
  parents,
  partitioning,
  stages,
  telemetry,
  train_step,
)
from calrec_jax import state as states
from calrec_jax.data.feed import OpenFeed
from calrec_jax.early_stopping import EarlyStopping
from calrec_jax.models import lora as loras
from calrec_jax.models.families import ModelConfig, family_of
from calrec_jax.parents import Parent
from calrec_jax.stages import Stage
from calrec_jax.train_step import Metrics
from calrec_jax.tuning import Tuning
from calrec_jax.validation import Validator, place
from calrec_jax.weighted_sum import WeightedSum


def run_stage(stage: Stage, name: str, stage_names: tuple[str, ...]) -> None:
  """Trains one stage to its end, from wherever it stands.

  A stage that is finished is left as it is.

  Args:
    stage: the configuration of the stage.
    name: of the stage; its folder in MODEL_DIR.
    stage_names: of the whole chain, in order.
  """
  folder = stages.folder(stage, name)
  caches = stages.documents_of(stage, stages.open_caches(stage))
  parent = stages.find_parent(stage, name, stage_names)
  feed = dataclasses.replace(
    stage.feed,
    shard_index=jax.process_index(),
    shard_count=jax.process_count(),
  ).open(caches)
  decoder_config = stages.decoder_for(stage, caches)
  mesh = partitioning.make_mesh(stage.mesh)
  partitioning.require_rows(stage.feed.rows, mesh, stage.microbatches)
  record = lineage.describe(
    stage=name,
    parent=parent.describe() if parent is not None else None,
    data={
      cache.name: {
        "fingerprint": cache.fingerprint,
        "card_sha256": lineage.digest(cache.card),
      }
      for cache in caches
    },
    training=stages.describe_training(stage, decoder_config, feed.settings()),
    configuration=config.text(),
  )
  done = stages.handover(folder)
  if done is not None or checkpoints.steps(folder):
    # Not to be passed off as a run of another configuration; and before Orbax
    # tidies up in a folder that is not ours.
    lineage.refuse_changes(stages.lineage_of(folder), record, folder)
  if done is not None:
    print(f"{name}: finished before; {done['checkpoint']} of {folder}")
    return
  with partitioning.activate(mesh, partitioning.logical_axis_rules()):
    loop = _Loop(stage, name, folder, feed, decoder_config, mesh, record)
    loop.start(parent)
    loop.run()
    loop.finish()


class _Loop:
  """A stage in progress; made inside an active mesh."""

  def __init__(
    self,
    stage: Stage,
    name: str,
    folder: Any,
    feed: OpenFeed,
    decoder_config: ModelConfig,
    mesh: jax.sharding.Mesh,
    record: dict[str, Any],
  ):
    self.stage, self.name, self.folder = stage, name, folder
    self.feed, self.mesh, self.record = feed, mesh, record
    self.decoder_config = decoder_config
    self.decoder = family_of(decoder_config).module(decoder_config)
    rules = partitioning.logical_axis_rules()
    boxed = states.abstract_state(self.decoder, stage.optimizer, stage.tuning)
    self.shardings = partitioning.state_shardings(boxed, mesh, rules)
    self.abstract = partitioning.unbox(boxed)
    frozen = stage.tuning.frozen_paths(boxed.params)
    table = partitioning.parameter_table(boxed.params, mesh, rules, frozen)
    summary = stage.tuning.summary(
      self.abstract.params, self.abstract.opt_state, self.shardings.opt_state
    )
    self.table = f"{table}\n{summary}"
    self.vocabulary = parents.vocabulary_record(
      feed.caches[0], stage.dataset.vocabulary
    )
    self.checkpoints = checkpoints.Checkpoints(folder, stage.checkpoints)
    self.validator = Validator(
      stage.validation, feed, self.decoder, stage.objective, mesh
    )
    self.early_stopping = EarlyStopping(
      stage.validation.patience, stage.checkpoints.rank
    )

  def start(self, parent: Parent | None) -> None:
    """Own checkpoint first, then the parent's parameters, then scratch."""
    step = self.checkpoints.latest_step()
    if step is not None:
      self.state, feed_state = self.checkpoints.restore(
        step, self.abstract, self.shardings
      )
      self.step = self.feed.resume(feed_state)
      if self.early_stopping.patience is not None:
        self.early_stopping.resume(self.checkpoints.early_stopping(step))
      origin = f"goes on from step {step}"
    else:
      self.step = 0
      self.state = states.create_state(
        self.decoder,
        self.stage.optimizer,
        self.shardings,
        self.stage.seed,
        self.stage.tuning,
      )
      origin = "starts from scratch"
      if parent is not None:
        self._take_params(parent)
        origin = f"starts from {parent}"
    if jax.process_index() == 0:
      self._write_records()
      self._introduce(origin)

  def _take_params(self, parent: Parent) -> None:
    # Of the new parameters only LoRA's are needed: two copies of a large model
    # would not fit.
    for leaf in jax.tree.leaves(loras.without_lora(self.state.params)):
      leaf.delete()
    params = parent.params(
      self.decoder_config,
      self.feed.caches[0].vocabulary(),
      self.abstract.params,
      self.shardings.params,
      fresh=loras.lora_leaves(self.state.params),
    )
    self.state = self.state._replace(params=params)

  def run(self) -> None:
    """Steps, until TRAIN_STEPS or until nothing becomes better."""
    if self.early_stopping.is_over:
      return  # Killed between its last checkpoint and the handover.
    stage = self.stage
    step_fn = jax.jit(
      train_step.make_train_step(
        self.decoder,
        stage.objective,
        stage.optimizer,
        stage.tuning,
        stage.microbatches,
      ),
      donate_argnums=0,
    )
    self.log = telemetry.StageLog(
      self.folder, self.name, self.step, stage.steps
    )
    self.meter = _Meter(self.decoder_config, stage.tuning)
    try:
      if self.step == 0 and stage.validation.at_start:
        self._validate()
      for step, batch in self.feed.iterator(self.step, stage.steps):
        self.state, metrics = step_fn(self.state, place(batch, self.mesh))
        self.step = step + 1
        self.meter.add(metrics)
        self.log.advance()
        # A row ends where a checkpoint is made: the rows after it must not
        # depend on whether the run was stopped there.
        may_save = self._due(stage.checkpoints.period) or (
          stage.validation.patience is not None
          and self._due(stage.validation.period)
        )
        if self._due(stage.log_period) or may_save:
          self._report()
        validated, improved = None, False
        if self._due(stage.validation.period):
          validated = self._validate()
          improved = self.early_stopping.see(validated, self.step)
        over = self.early_stopping.is_over
        if self._due(stage.checkpoints.period) or improved or over:
          self._save(validated)
        if over:
          break
    finally:
      self.log.close()

  def finish(self) -> None:
    """Hands the best checkpoint over; only then is the stage finished."""
    self.checkpoints.wait()
    best = self.checkpoints.best_step()
    if jax.process_index() == 0:
      lineage.write_json(
        self.folder / stages.HANDOVER,
        {"checkpoint": f"checkpoint_{best}", "steps": self.step},
      )
      print(
        f"{self.name}: finished; checkpoint_{best} is handed over "
        f"({self.folder})"
      )
    self.checkpoints.close()

  def _due(self, period: int) -> bool:
    return self.step % period == 0 or self.step == self.stage.steps

  def _report(self) -> None:
    values = self.meter.read()
    if not math.isfinite(values["loss"]):
      raise FloatingPointError(
        f"{self.name}: the loss is {values['loss']} at step {self.step}. "
        "Lower LEARNING_RATE, or look at the rows of metrics.jsonl "
        f"before it; {self.folder} holds the last good checkpoint."
      )
    self.log.write(self.step, "train", values)

  def _validate(self) -> dict[str, float]:
    with self.meter.paused():
      values = self.validator(self.state.params)
    self.log.write(self.step, "validation", values)
    return values

  def _save(self, validated: dict[str, float] | None) -> None:
    if self.stage.checkpoints.best_metric and validated is None:
      validated = self._validate()
    with self.meter.paused():
      self.checkpoints.save(
        self.state,
        step=self.step,
        feed=self.feed.state(self.step),
        lineage={**self.record, "cards": self._cards()},
        vocabulary=self.vocabulary,
        metrics=validated,
        early_stopping=self.early_stopping.state(),
      )

  def _cards(self) -> dict[str, Any]:
    return {cache.name: cache.card for cache in self.feed.caches}

  def _write_records(self) -> None:
    self.folder.mkdir(parents=True, exist_ok=True)
    lineage.copy_files(
      self.feed.caches[0].vocabulary().files, self.folder / "vocabulary"
    )
    lineage.write_json(self.folder / "lineage.json", self.record)
    lineage.write_text(self.folder / "config.gin", config.text())
    lineage.write_text(self.folder / "model-info.txt", self.table + "\n")

  def _introduce(self, origin: str) -> None:
    stats = self.feed.stats
    users = ", ".join(
      f"{name} {count:,}" for name, count in stats.users_per_epoch.items()
    )
    print(
      f"{self.name}: {origin}, to step {self.stage.steps}, in {self.folder}\n"
      f"  users of an epoch: {users}; {stats.steps_per_epoch} steps, rows "
      f"{stats.fill:.0%} full, {stats.targets_per_row:.1f} targets a row\n"
      f"{self.table}"
    )


class _Meter:
  """Sums the metrics of the steps since the last report, and their time."""

  def __init__(self, decoder_config: ModelConfig, tuning: Tuning):
    self._config, self._tuning = decoder_config, tuning
    self._peak = telemetry.peak_flops()
    self._parts: list[Metrics] = []
    self._since: float | None = None  # The first step compiles.
    self._timed = 0

  def add(self, metrics: Metrics) -> None:
    """Takes a step's metrics without waiting for them."""
    self._parts.append(metrics)
    if self._since is None:
      jax.block_until_ready(metrics)
      self._since = time.perf_counter()
    else:
      self._timed += 1

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Leaves out of the speeds what is done inside."""
    jax.block_until_ready(self._parts)
    began = time.perf_counter()
    yield
    if self._since is not None:
      self._since += time.perf_counter() - began

  def read(self) -> dict[str, float]:
    """Means since the last reading, and speeds; waits for the devices."""
    parts = jax.device_get(self._parts)
    seconds = time.perf_counter() - (self._since or 0.0)
    sums: dict[str, WeightedSum] = functools.reduce(
      lambda total, part: {key: total[key].merge(part[key]) for key in total},
      parts,
    )
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
          loss_tokens=sums["loss_nig_nats"].weight / len(parts),
          attended=values["attended_keys"],
          trained=self._tuning.trains,
        )
        values["model_flop_utilisation"] = (
          needed * steps_per_second / self._peak
        )
    self._parts, self._timed = [], 0
    self._since = time.perf_counter()
    return values
