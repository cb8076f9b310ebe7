"""The loop of one stage: feed, step, telemetry, validation, checkpoints.

Reads top to bottom in the order in which things happen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from calrec_jax import config
from calrec_jax.checkpoint import (
  initial_parameters,
  run_folder,
  stage_folder,
  store,
)
from calrec_jax.checkpoint.initial_parameters import ParameterSource
from calrec_jax.data.cache import item_ids
from calrec_jax.data.cache.item_ids import ItemCache
from calrec_jax.data.cache.token_cache import TokenCache
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
from calrec_jax.storage import atomic, identity, lineage, run_lock
from calrec_jax.train import budget as budgets
from calrec_jax.train import (
  checkpointing,
  goodput,
  profiling,
  stages,
  telemetry,
  train_step,
)
from calrec_jax.train import state as states
from calrec_jax.train.budget import Budget
from calrec_jax.train.early_stopping import EarlyStopping
from calrec_jax.train.meter import Meter
from calrec_jax.train.stages import Stage
from calrec_jax.train.validation import SPLIT, Validator


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
  parent = stages.vocabulary_parent(stage, name, stage_names)
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
  goes_on = stage.budget_seconds if _is_last(stage, name, stage_names) else None
  if _is_finished(goes_on, name, folder, record):  # Nothing is written then.
    return
  with _alone(folder):
    # Another process may have trained it meanwhile.
    if _is_finished(goes_on, name, folder, record):
      return
    done = stage_folder.handover(folder)
    if done is not None and (folder / done["checkpoint"]).is_dir():
      print(f"{name}: goes on, as TRAIN_BUDGET is larger than before")
    elif done is not None:
      print(
        f"{name}: finished before, but {done['checkpoint']} is missing in "
        f"{folder}; training again"
      )
    stage = _without_validation(stage, name, caches)
    with partitioning.activate(mesh, partitioning.logical_axis_rules()):
      loop = _Loop(
        stage, name, folder, feed, decoder_config, mesh, record, guard, timeline
      )
      loop.start(source)
      with guard.deferred():
        loop.run()
        loop.finish()


def _is_last(stage: Stage, name: str, stage_names: tuple[str, ...]) -> bool:
  """Whether no other stage has started from this one."""
  later = stage_names[stage_names.index(name) + 1 :]
  return all(
    stage_folder.lineage_of(stages.folder(stage, other)) is None
    for other in later
  )


def _is_finished(
  goes_on: float | None,
  name: str,
  folder: pathlib.Path,
  record: Mapping[str, Any],
) -> bool:
  """Whether a stage is finished; refuses a folder of another run.

  Args:
    goes_on: Seconds of a budget up to which a stage that the clock has ended
      goes on; None leaves it ended.
    name: Name of the stage.
    folder: Its folder.
    record: Lineage of the stage.

  Raises:
    LineageError: If the folder's run is not this one, finished or not: Orbax
      must not clean up in its folder.
  """
  done = stage_folder.handover(folder)
  if done is not None or checkpointing.newest(folder) is not None:
    lineage.refuse_changes(stage_folder.lineage_of(folder), record, folder)
  if done is None or not (folder / done["checkpoint"]).is_dir():
    return False
  ended = done.get("budget_seconds")
  if ended is not None and goes_on is not None and goes_on > ended:
    return False
  print(f"{name}: finished before; {done['checkpoint']} of {folder}")
  return True


def _alone(folder: pathlib.Path) -> contextlib.AbstractContextManager[None]:
  """The folder's lock, which the first process of a job holds for all."""
  if jax.process_index():
    return contextlib.nullcontext()
  return run_lock.held(folder)


def _without_validation(
  stage: Stage, name: str, caches: Sequence[TokenCache]
) -> Stage:
  """The stage as it is, or if no user can be validated, without choices."""
  if any(cache.num_documents(SPLIT) for cache in caches):
    return stage
  if jax.process_index() == 0:
    ends = ""
    if stage.validation.patience is not None:
      ends = "early stopping is off, and "
    print(
      f"{name}: no user has enough events to validate; training without: "
      f"{ends}the last checkpoint is handed over"
    )
  return dataclasses.replace(
    stage,
    checkpoints=dataclasses.replace(stage.checkpoints, best_metric=""),
    validation=dataclasses.replace(stage.validation, patience=None),
  )


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
    self.decoder = family_of(decoder_config).module(decoder_config, feed.caches)
    boxed = states.abstract_state(
      self.decoder, stage.optimizer, stage.tuning, stage.averaging
    )
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
    self.budget = None
    if stage.budget_seconds is not None:
      self.budget = Budget(stage.budget_seconds)

  def start(self, source: ParameterSource | None) -> None:
    """Starts from the stage's own checkpoint, the source, or scratch."""
    stage = self.stage
    self.meter = Meter(self.decoder_config, stage.tuning)
    newest = checkpointing.newest(self.folder)
    self.fresh = newest is None
    # Whether all that follows the last step (rows, checkpoint, validation) is
    # done; it is not after a preemption, nor at a fresh start. Of a run that
    # ended in a validation, all but that is.
    self.complete = self.saved = False
    if newest is not None:
      self._restore(newest)
      origin = f"resumes from step {self.step}"
    else:
      self.step = 0
      self.state = states.create_state(
        self.decoder,
        stage.optimizer,
        self.shardings,
        stage.seed,
        stage.tuning,
        stage.averaging,
      )
      origin = f"starts from {source or 'scratch'}"
      if source is not None:
        self._take_params(source)
    if jax.process_index() == 0:
      self._write_records()
      self._introduce(origin)
      self._note("start")

  def _restore(self, checkpoint: pathlib.Path) -> None:
    self.saved = checkpoint.parent == self.folder
    opened = self.checkpoints
    if not self.saved:
      opened = checkpointing.preempted(self.folder)
    step = store.step_of(checkpoint)
    self.state, feed_state = opened.restore(step, self.abstract, self.shardings)
    self.step = self.feed.resume(feed_state)
    self.complete = self.saved and self._is_validated(checkpoint)
    if self.early_stopping.patience is not None:
      self.early_stopping.resume(
        store.read_json(checkpoint, checkpointing.EARLY_STOPPING)
      )
    # A run that began without a budget has used nothing of it.
    if self.budget is not None and (checkpoint / checkpointing.BUDGET).is_dir():
      self.budget.resume(store.read_json(checkpoint, checkpointing.BUDGET))
    if not self.saved:
      self.meter.resume(store.read_json(checkpoint, checkpointing.UNREPORTED))
      opened.close()

  def _is_validated(self, checkpoint: pathlib.Path) -> bool:
    """Whether the checkpoint's step needs no validation, or has had it."""
    if self.stage.checkpoints.best_metric:
      return (checkpoint / store.METRICS).is_dir()
    if self.step == 0 or not self._validates():
      return True
    rows = telemetry.read_rows(self.folder / telemetry.METRICS_FILE)
    return any(
      row["step"] == self.step and row["split"] == "validation" for row in rows
    )

  def _take_params(self, source: ParameterSource) -> None:
    # Only LoRA's new parameters are needed; two copies of a large model would
    # not fit.
    for leaf in jax.tree.leaves(
      (loras.without_lora(self.state.params), self.state.average)
    ):
      leaf.delete()
    params = source.params(
      self.decoder_config,
      self.feed.caches[0].vocabulary(),
      self.abstract.params,
      self.shardings.params,
      fresh=loras.lora_leaves(self.state.params),
    )
    average = self.state.average
    if average is not None:  # Copies: both are updated in place.
      average = jax.tree.map(jnp.copy, self.stage.tuning.split(params)[0])
    self.state = self.state._replace(params=params, average=average)

  def run(self) -> None:
    """Trains until its steps, its time or its improvements are over."""
    if self.early_stopping.is_over or (self.complete and self._time_is_over()):
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
        stage.averaging,
      ),
      donate_argnums=0,
    )
    self.log = telemetry.StageLog(
      self.folder,
      self.name,
      self.step,
      stage.steps,
      self.complete or self.saved,
      self.complete,
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
      raise Preempted(f"{self.guard.word}: {saved}") from None
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
      self.step, self.saved = step + 1, False
      self.meter.add(metrics)
      if self.step == first:
        self.timeline.now(goodput.STEPS)
        self.log.say(f"first step made after {self.timeline.start_up()}")
      if (trace := self.profiler.after(self.step, metrics)) is not None:
        self.log.say(f"profile of steps to {self.step}: {trace}")
      self.log.advance()
      if self.budget is not None and self.budget.measures:
        self._measure(self.budget, metrics)
      if self.guard.preempted():
        raise Preempted
      if self._after_step():
        return

  def _measure(self, budget: Budget, metrics: Any) -> None:
    """Times the first steps, and plans the validations by them."""
    jax.block_until_ready(metrics)
    seconds = distributed.agreed(budget.step() or 0.0)
    if not seconds:
      return
    budget.begin(int(distributed.agreed(budget.plan(seconds))))
    passes = min(self.feed.stats.passes_per_epoch.values())
    steps_per_pass = self.feed.stats.steps_per_epoch / passes
    share = self.stage.budget_share
    line = budgets.estimate(seconds, budget, steps_per_pass, share)
    self.log.say(f"{self.name}: {line}")

  def _after_start(self) -> None:
    """Validates step 0: the initial parameters may be the best ones."""
    if not self.stage.validation.at_start or not self.validator.users:
      return
    validated = self._validate()
    self.early_stopping.update(validated, self.step)
    if self.stage.checkpoints.best_metric:
      self._save(validated)

  def _after_step(self) -> bool:
    """Reports, saves and validates if due; returns whether to end.

    What is due is saved before it is validated: a validation that fails loses
    no step. An improvement between checkpoints is known only after it.

    Raises:
      Preempted: in the validation.
    """
    stage = self.stage
    saves, counts = self._due(stage.checkpoints.period), self._validates()
    validates = counts or (saves and self._chooses())
    # A row ends where a checkpoint may be saved: later rows must not depend on
    # whether the run was stopped there.
    may_save = saves or (counts and stage.validation.patience is not None)
    if not self.saved:
      if self._due(stage.log_period) or may_save:
        self._report()
      if saves:
        self._save()
    over = validates and self._validate_step(counts)
    if self.budget is not None and self._is_part_of_budget():
      self.budget.part_over()
      over = over or self._time_is_over()
    return over

  def _validate_step(self, counts: bool) -> bool:
    """Validates a step; returns whether the stage has stopped improving.

    Args:
      counts: Whether it is one of the validations that early stopping counts.
    """
    if self.saved:  # On disk, whatever happens in the validation.
      with self.meter.paused(), self.timeline.during(goodput.CHECKPOINTS):
        self.checkpoints.wait()
    validated = self._validate()
    improved = counts and self.early_stopping.update(validated, self.step)
    over = self.early_stopping.is_over
    if self.saved:
      with self.meter.paused(), self.timeline.during(goodput.CHECKPOINTS):
        self.checkpoints.add_validation(
          self.step, validated, self.early_stopping.state()
        )
    elif improved or over:
      self._save(validated)
    return over

  def finish(self) -> None:
    """Hands over the best checkpoint, which marks the stage as finished."""
    with self.timeline.during(goodput.CHECKPOINTS):
      self.checkpoints.wait()
    best = self.checkpoints.best_step()
    if jax.process_index() == 0:
      shutil.rmtree(self.folder / checkpointing.PREEMPTED, ignore_errors=True)
      record = {"checkpoint": f"checkpoint_{best}", "steps": self.step}
      if self.name in stages.members():
        record["member"] = True
      if self.budget is not None and self.budget.is_over:
        record["budget_seconds"] = self.budget.seconds
      lineage.write_json(self.folder / stage_folder.HANDOVER, record)
      self._note("finished")
      print(
        f"{self.name}: finished; checkpoint_{best} is handed over "
        f"({self.folder})\n  {goodput.summary(self.folder)}"
      )
    self.checkpoints.close()
    # The next stage starts from what the first process wrote here.
    distributed.together("the stage is handed over")

  def _validates(self) -> bool:
    return self.validator.users > 0 and self._due(self.stage.validation.period)

  def _time_is_over(self) -> bool:
    over = self.budget is not None and self.budget.is_over
    return bool(distributed.agreed(over))

  def _is_part_of_budget(self) -> bool:
    period = None if self.budget is None else self.budget.period
    return period is not None and self.step % period == 0

  def _chooses(self) -> bool:
    """Whether every checkpoint needs the metrics of a validation."""
    return self.stage.checkpoints.best_metric != ""

  def _due(self, period: int | None) -> bool:
    if self.step == self.stage.steps or self._is_part_of_budget():
      return True
    return period is not None and self.step % period == 0

  def _report(self) -> None:
    values = self.meter.read()
    if not math.isfinite(values["loss"]):
      raise DivergedError(self._diverged(f"the loss is {values['loss']}"))
    self.log.write(self.step, "train", values)

  def _diverged(self, what: str) -> str:
    """What is wrong, and how to go on from where it was not yet."""
    with self.timeline.during(goodput.CHECKPOINTS):
      self.checkpoints.wait()
    good, existing = self._last_good(), checkpointing.newest(self.folder)
    if good is None:
      remedy = (
        "No checkpoint was saved before it: start again with a lower one."
        if existing is None
        else f"No good checkpoint was saved before it, as {existing.name} was "
        "followed by no finite loss: start again with a lower one and another "
        "MODEL_DIR."
      )
    else:
      # This MODEL_DIR refuses another rate, which makes it another run.
      flags = [
        f"--gin.MODEL_DIR=\"'{self.folder.parent}_lower_rate'\"",
        f"--gin.INITIAL_CHECKPOINT_PATH=\"'{good}'\"",
        "--gin.LEARNING_RATE=...",
      ]
      if self.name != stage_folder.SINGLE_STAGE:
        flags.insert(0, f"--stage={self.name}")
      remedy = (
        f"The last good checkpoint is {good}: go on from it with a lower one "
        f"by {' '.join(flags)}"
      )
    return (
      f"{self.name}: {what} at step {self.step}: LEARNING_RATE may be too high "
      f"(see the rows before it in {self.folder / telemetry.METRICS_FILE}). "
      f"{remedy}"
    )

  def _last_good(self) -> pathlib.Path | None:
    """The newest checkpoint whose parameters have given a finite loss."""
    last = max(
      (
        row["step"] - (row["split"] == "train")  # Measured before its update.
        for row in telemetry.read_rows(self.folder / telemetry.METRICS_FILE)
        if math.isfinite(row["loss"])
      ),
      default=-1,
    )
    return checkpointing.newest(self.folder, before=last + 1)

  def _validate(self) -> dict[str, float]:
    began = time.perf_counter()
    try:
      with (
        self.meter.paused(),
        self.timeline.during(goodput.VALIDATION),
        self.guard.interruptible(),
      ):
        values = self.validator(self.state.model)
    except DivergedError as error:
      what = f"the validation fails ({str(error).rstrip('.')})"
      raise DivergedError(self._diverged(what)) from error
    except Exception as error:
      self._save_on_failure(error)
      raise
    if self.budget is not None:
      self.budget.took(time.perf_counter() - began)
    self.log.write(self.step, "validation", values)
    return values

  def _save_on_failure(self, error: Exception) -> None:
    """Saves a step whose validation failed, and says so in the error."""
    if jax.process_count() > 1 or self.step == 0:
      return  # Saving is joint work, and the others may not have failed.
    self._save_on_preemption()
    error.add_note(
      f"The validation of step {self.step} failed after its checkpoint was "
      f"saved in {self.folder}; rerun the same command to resume."
    )

  def _save(self, validated: dict[str, float] | None = None) -> None:
    with self.meter.paused(), self.timeline.during(goodput.CHECKPOINTS):
      self.checkpoints.save(self.state, metrics=validated, **self._records())
    self.saved = True
    self._note("saved")

  def _save_on_preemption(self) -> None:
    """Saves all that it takes to resume bit-exactly.

    The next run does what follows the step: rows, validation, checkpoint.
    """
    self.timeline.now(goodput.CHECKPOINTS)
    self.checkpoints.close()
    if self.step == 0 or self.saved:
      return  # The next run starts afresh, or from what is saved.
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
      "budget": None if self.budget is None else self.budget.state(),
    }

  def _write_records(self) -> None:
    self.folder.mkdir(parents=True, exist_ok=True)
    lineage.copy_files(
      self.feed.caches[0].vocabulary().files, self.folder / "vocabulary"
    )
    caches = [each for each in self.feed.caches if isinstance(each, ItemCache)]
    if caches:
      item_ids.write_items(caches, self.folder / item_ids.ITEMS_FILE)
    if getattr(self.decoder_config, "text_tokens", 0):
      lineage.copy_files(
        caches[0].texts().vocabulary().files, self.folder / "vocabulary"
      )
    lineage.write_json(self.folder / "lineage.json", self.record)
    run_folder.write_config(self.folder, config.text())
    atomic.write_text(self.folder / "model-info.txt", self.table + "\n")

  def _end(self) -> str:
    """When the stage ends, human-readable."""
    ends = []
    if self.stage.steps is not None:
      ends.append(f"to step {self.stage.steps}")
    if self.budget is not None:
      left = budgets.worded(max(self.budget.seconds - self.budget.used(), 0))
      ends.append(f"for {left}")
    return " or ".join(ends)

  def _introduce(self, origin: str) -> None:
    stats = self.feed.stats
    users = ", ".join(
      f"{name} {count:,}" for name, count in stats.users_per_epoch.items()
    )
    newest = ""
    count = sum(stats.targets.values())
    if self.feed.feed.newest is not None and count >= self.feed.feed.newest:
      newest = f"; the newest {count:,} events are targets (Feed.newest)"
    print(
      f"{self.name}: {origin}, {self._end()}, in {self.folder}\n"
      f"  users per epoch: {users}; {stats.steps_per_epoch} steps, rows "
      f"{stats.fill:.0%} full, {stats.targets_per_row:.1f} targets per row"
      f"{newest}\n"
      f"{self.table}"
    )
