"""The loop of one stage: feed, step, telemetry, validation, checkpoints.

Reads top to bottom in the order in which things happen.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax

from calrec_jax import config
from calrec_jax.checkpoint import (
  initial_parameters,
  run_folder,
  stage_folder,
  store,
)
from calrec_jax.checkpoint.initial_parameters import ParameterSource
from calrec_jax.data.feed.feed import OpenFeed
from calrec_jax.errors import DivergedError
from calrec_jax.models import lora as loras
from calrec_jax.models.families import ModelConfig, family_of
from calrec_jax.runtime import (
  compile_cache,
  distributed,
  partitioning,
  placement,
)
from calrec_jax.runtime.preemption import Preempted, PreemptionGuard
from calrec_jax.storage import atomic, identity, lineage
from calrec_jax.train import (
  checkpointing,
  goodput,
  profiling,
  stages,
  telemetry,
  train_step,
)
from calrec_jax.train import state as states
from calrec_jax.train.early_stopping import EarlyStopping
from calrec_jax.train.meter import Meter
from calrec_jax.train.stages import Stage
from calrec_jax.train.validation import Validator


def run_stage(
  stage: Stage, name: str, stage_names: tuple[str, ...], guard: PreemptionGuard
) -> None:
  """Trains or resumes one stage to its end; skips one that is finished.

  Args:
    stage: Configuration of the stage.
    name: Name of the stage; its folder in MODEL_DIR.
    stage_names: Names of all stages of the chain, in order.
    guard: Guard that knows when the run is preempted.

  Raises:
    Preempted: if it was preempted, after saving.
  """
  timeline = goodput.Timeline()
  folder = stages.folder(stage, name)
  compile_cache.keep(pathlib.Path(stage.dataset.folder))
  parent = stages.parent_path(stage, name, stage_names)
  stage = stages.with_vocabulary_of(stage, parent)
  with distributed.first_before_others("caches are built"):
    caches = stages.documents_of(stage, stages.open_caches(stage))
  source = stages.find_source(stage, name, stage_names)
  feed = dataclasses.replace(
    stages.feed_after(stage, source),
    shard_index=jax.process_index(),
    shard_count=jax.process_count(),
  ).open(caches)
  decoder_config = stages.decoder_for(stage, caches)
  mesh = partitioning.make_mesh(stage.mesh)
  partitioning.require_rows(stage.feed.rows, mesh, stage.microbatches)
  record = lineage.describe(
    stage=name,
    parent=source.describe() if source is not None else None,
    data={
      cache.name: {
        "fingerprint": cache.fingerprint,
        "card_sha256": identity.digest(cache.card),
      }
      for cache in caches
    },
    training=stages.describe_training(stage, decoder_config, feed.settings()),
    configuration=config.text(),
  )
  done = stage_folder.handover(folder)
  if done is not None or checkpointing.newest(folder) is not None:
    # A run of another configuration is not this one, finished or not, and Orbax
    # must not clean up in its folder.
    lineage.refuse_changes(stage_folder.lineage_of(folder), record, folder)
  if done is not None:
    print(f"{name}: finished before; {done['checkpoint']} of {folder}")
    return
  with partitioning.activate(mesh, partitioning.logical_axis_rules()):
    loop = _Loop(
      stage, name, folder, feed, decoder_config, mesh, record, guard, timeline
    )
    loop.start(source)
    with guard.deferred():
      loop.run()
      loop.finish()


class _Loop:
  """A stage in progress; created inside an active mesh."""

  def __init__(
    self,
    stage: Stage,
    name: str,
    folder: pathlib.Path,
    feed: OpenFeed,
    decoder_config: ModelConfig,
    mesh: jax.sharding.Mesh,
    record: dict[str, Any],
    guard: PreemptionGuard,
    timeline: goodput.Timeline,
  ):
    timeline.now("parameters")
    self.guard, self.timeline = guard, timeline
    self.stage, self.name, self.folder = stage, name, folder
    self.feed, self.mesh, self.record = feed, mesh, record
    self.decoder_config = decoder_config
    self.decoder = family_of(decoder_config).module(decoder_config)
    boxed = states.abstract_state(self.decoder, stage.optimizer, stage.tuning)
    self.abstract, self.shardings = partitioning.place(boxed, mesh)
    table = partitioning.parameter_table(
      boxed.params,
      mesh,
      partitioning.logical_axis_rules(),
      stage.tuning.frozen_paths(boxed.params),
    )
    summary = stage.tuning.summary(
      self.abstract.params, self.abstract.opt_state, self.shardings.opt_state
    )
    self.table = f"{table}\n{summary}"
    self.vocabulary = initial_parameters.vocabulary_record(
      feed.caches[0], stage.dataset.vocabulary
    )
    self.checkpoints = checkpointing.Checkpoints(folder, stage.checkpoints)
    self.validator = Validator(
      stage.validation, feed, self.decoder, stage.objective, mesh
    )
    self.early_stopping = EarlyStopping(
      stage.validation.patience, stage.checkpoints.rank
    )
    self.profiler = profiling.Profiler(stage.profile, folder)

  def start(self, source: ParameterSource | None) -> None:
    """Starts from the stage's own checkpoint, the source, or scratch."""
    stage = self.stage
    self.meter = Meter(self.decoder_config, stage.tuning)
    newest = checkpointing.newest(self.folder)
    self.fresh = newest is None
    # Whether all that follows the last step (rows, validation, checkpoint) is
    # done; it is not after a preemption, nor at a fresh start.
    self.complete = False
    if newest is not None:
      self._restore(newest)
      origin = f"resumes from step {self.step}"
    else:
      self.step = 0
      self.state = states.create_state(
        self.decoder, stage.optimizer, self.shardings, stage.seed, stage.tuning
      )
      origin = f"starts from {source or 'scratch'}"
      if source is not None:
        self._take_params(source)
    if jax.process_index() == 0:
      self._write_records()
      self._introduce(origin)
      self._note("start")

  def _restore(self, checkpoint: pathlib.Path) -> None:
    self.complete = checkpoint.parent == self.folder
    opened = self.checkpoints
    if not self.complete:
      opened = checkpointing.preempted(self.folder)
    step = store.step_of(checkpoint)
    self.state, feed_state = opened.restore(step, self.abstract, self.shardings)
    self.step = self.feed.resume(feed_state)
    if self.early_stopping.patience is not None:
      self.early_stopping.resume(
        store.read_json(checkpoint, checkpointing.EARLY_STOPPING)
      )
    if not self.complete:
      self.meter.resume(store.read_json(checkpoint, checkpointing.UNREPORTED))
      opened.close()

  def _take_params(self, source: ParameterSource) -> None:
    # Only LoRA's new parameters are needed; two copies of a large model would
    # not fit.
    for leaf in jax.tree.leaves(loras.without_lora(self.state.params)):
      leaf.delete()
    params = source.params(
      self.decoder_config,
      self.feed.caches[0].vocabulary(),
      self.abstract.params,
      self.shardings.params,
      fresh=loras.lora_leaves(self.state.params),
    )
    self.state = self.state._replace(params=params)

  def run(self) -> None:
    """Trains until TRAIN_STEPS or until validations stop improving."""
    if self.early_stopping.is_over:
      return  # Killed between its last checkpoint and the handover.
    stage = self.stage
    self.timeline.now("first step")
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
      self.folder, self.name, self.step, stage.steps, self.complete
    )
    try:
      if self.fresh:
        self._after_start()
      elif not self.complete and self._after_step():
        return
      self._make_steps(step_fn)
    except Preempted:
      self._save_on_preemption()
      saved = f"saved checkpoint at step {self.step}"
      if self.step == 0:
        saved = "no step was completed, so nothing had to be saved"
      raise Preempted(f"Preempted: {saved}") from None
    finally:
      self.profiler.close()
      self.log.close()

  def _make_steps(self, step_fn: Callable[..., Any]) -> None:
    first = self.step + 1
    for step, batch in self.feed.iterator(self.step, self.stage.steps):
      self.profiler.before(step + 1)
      with profiling.training_step(step + 1):
        self.state, metrics = step_fn(
          self.state, placement.from_local_rows(batch, self.mesh)
        )
      self.step = step + 1
      self.meter.add(metrics)
      if self.step == first:
        self.timeline.now(goodput.STEPS)
        self.log.say(f"first step made after {self.timeline.start_up()}")
      if (trace := self.profiler.after(self.step, metrics)) is not None:
        self.log.say(f"profile of steps to {self.step}: {trace}")
      self.log.advance()
      if self.guard.preempted():
        raise Preempted
      if self._after_step():
        return

  def _after_start(self) -> None:
    """Validates step 0: the initial parameters may be the best ones."""
    if not self.stage.validation.at_start:
      return
    validated = self._validate()
    self.early_stopping.update(validated, self.step)
    if self.stage.checkpoints.best_metric:
      self._save(validated)

  def _after_step(self) -> bool:
    """Reports, validates and saves if due; returns whether to end.

    Raises:
      Preempted: in the validation; then nothing is saved.
    """
    stage = self.stage
    saves, validates = (
      self._due(part.period) for part in (stage.checkpoints, stage.validation)
    )
    # A row ends where a checkpoint may be saved: later rows must not depend on
    # whether the run was stopped there.
    may_save = saves or (validates and stage.validation.patience is not None)
    if self._due(stage.log_period) or may_save:
      self._report()
    validated, improved = None, False
    if validates:
      validated = self._validate()
      improved = self.early_stopping.update(validated, self.step)
    over = self.early_stopping.is_over
    if saves or improved or over:
      self._save(validated)
    return over

  def finish(self) -> None:
    """Hands over the best checkpoint, which marks the stage as finished."""
    with self.timeline.during(goodput.CHECKPOINTS):
      self.checkpoints.wait()
    best = self.checkpoints.best_step()
    if jax.process_index() == 0:
      shutil.rmtree(self.folder / checkpointing.PREEMPTED, ignore_errors=True)
      lineage.write_json(
        self.folder / stage_folder.HANDOVER,
        {"checkpoint": f"checkpoint_{best}", "steps": self.step},
      )
      self._note("finished")
      print(
        f"{self.name}: finished; checkpoint_{best} is handed over "
        f"({self.folder})\n  {goodput.summary(self.folder)}"
      )
    self.checkpoints.close()
    # The next stage starts from what the first process wrote here.
    distributed.together("the stage is handed over")

  def _due(self, period: int) -> bool:
    return self.step % period == 0 or self.step == self.stage.steps

  def _report(self) -> None:
    values = self.meter.read()
    if not math.isfinite(values["loss"]):
      raise DivergedError(
        f"{self.name}: the loss is {values['loss']} at step {self.step}. "
        "Lower LEARNING_RATE, or look at the rows of metrics.jsonl "
        f"before it; {self.folder} holds the last good checkpoint."
      )
    self.log.write(self.step, "train", values)

  def _validate(self) -> dict[str, float]:
    with (
      self.meter.paused(),
      self.timeline.during(goodput.VALIDATION),
      self.guard.interruptible(),
    ):
      values = self.validator(self.state.params)
    self.log.write(self.step, "validation", values)
    return values

  def _save(self, validated: dict[str, float] | None) -> None:
    if self.stage.checkpoints.best_metric and validated is None:
      validated = self._validate()
    with self.meter.paused(), self.timeline.during(goodput.CHECKPOINTS):
      self.checkpoints.save(self.state, metrics=validated, **self._records())
    self._note("saved")

  def _save_on_preemption(self) -> None:
    """Saves all that it takes to resume bit-exactly.

    The next run does what follows the step: rows, validation, checkpoint.
    """
    self.timeline.now(goodput.CHECKPOINTS)
    self.checkpoints.close()
    if self.step == 0:
      return  # The next run starts afresh.
    opened = checkpointing.preempted(self.folder)
    if opened.latest_step() != self.step:  # Else preempted again at once.
      unreported = self.meter.state()
      opened.save(
        self.state, metrics=None, unreported=unreported, **self._records()
      )
    opened.close()
    self._note("left")

  def _note(self, event: str) -> None:
    if jax.process_index() == 0:
      goodput.add_row(self.folder, event, self.step, self.timeline)

  def _records(self) -> dict[str, Any]:
    cards = {cache.name: cache.card for cache in self.feed.caches}
    return {
      "step": self.step,
      "feed": self.feed.state(self.step),
      "lineage": {**self.record, "cards": cards},
      "vocabulary": self.vocabulary,
      "early_stopping": self.early_stopping.state(),
    }

  def _write_records(self) -> None:
    self.folder.mkdir(parents=True, exist_ok=True)
    lineage.copy_files(
      self.feed.caches[0].vocabulary().files, self.folder / "vocabulary"
    )
    lineage.write_json(self.folder / "lineage.json", self.record)
    run_folder.write_config(self.folder, config.text())
    atomic.write_text(self.folder / "model-info.txt", self.table + "\n")

  def _introduce(self, origin: str) -> None:
    stats = self.feed.stats
    users = ", ".join(
      f"{name} {count:,}" for name, count in stats.users_per_epoch.items()
    )
    print(
      f"{self.name}: {origin}, to step {self.stage.steps}, in {self.folder}\n"
      f"  users per epoch: {users}; {stats.steps_per_epoch} steps, rows "
      f"{stats.fill:.0%} full, {stats.targets_per_row:.1f} targets per row\n"
      f"{self.table}"
    )
