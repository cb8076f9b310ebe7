"""One stage of training, and the chain of stages that a recipe names.

Stage one trains on many domains together, stage two continues from its
parameters on the target domain (CALRec, section on training). A chain can be
stopped anywhere: finished stages are skipped, an interrupted one resumes from
its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
import optax

from calrec_jax import config
from calrec_jax.checkpoint import (
  initial_parameters,
  run_folder,
  stage_folder,
  store,
)
from calrec_jax.data import building
from calrec_jax.data.cache.item_ids import ItemCache, by_item_ids
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.dataset import Dataset
from calrec_jax.data.feed.feed import Feed
from calrec_jax.data.vocabulary.trained import TrainedSentencePiece
from calrec_jax.errors import (
  InputError,
  at_least,
  check,
  nearest,
  optional,
  refuse,
  within,
)
from calrec_jax.models.families import ModelConfig, family_of
from calrec_jax.models.next_item import NextItem
from calrec_jax.models.sasrec import SASRecConfig
from calrec_jax.models.tuning import EVERYTHING, Tuning
from calrec_jax.runtime.partitioning import MeshShape
from calrec_jax.storage import identity
from calrec_jax.train import budget as budgets
from calrec_jax.train import optimizers, profiling
from calrec_jax.train.averaging import Averaging
from calrec_jax.train.checkpointing import CheckpointPolicy
from calrec_jax.train.profiling import ProfileWindow
from calrec_jax.train.validation import Validation

_START = "INITIAL_CHECKPOINT_PATH"
_REQUIRED: Any = gin.REQUIRED  # A value of every type: gin replaces it.


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """Settings of one stage of training.

  Attributes:
    model_dir: MODEL_DIR, the folder of the run; the stage writes into its
      subfolder named after it.
    task: MIXTURE_OR_TASK_NAME of the dataset.
    steps: TRAIN_STEPS, the number of updates; None trains for the budget.
    dataset: Domains, mixtures and vocabulary.
    decoder: Shape of the model: a `DecoderConfig` or a `SASRecConfig`.
    objective: Losses: an `Objective` or, for SASRec, a `NextItem`.
    optimizer: Optimizer of the trained parameters.
    feed: Packing, shuffling, batch size.
    mesh: Devices along each axis.
    checkpoints: Policy of saving.
    validation: Settings of validation.
    tuning: Choice of trained parameters; by default all.
    microbatches: MICROBATCHES (t5x: num_microbatches), the number of parts that
      a batch is split into to save memory, with the losses and gradients of the
      whole batch; see `calrec_jax.train.accumulation`.
    initial_checkpoint: INITIAL_CHECKPOINT_PATH, parameters to start from: a
      `checkpoint_<step>` folder, a stage's or a run's, whose vocabulary is then
      used for a `TrainedSentencePiece`; a t5x checkpoint in Orbax's
      format, a Hugging Face folder, a GGUF file, or the name of a packaged
      model. None starts from the previous stage, the first stage from scratch.
    use_cached: USE_CACHED_TASKS; True refuses to build a missing token cache.
    seed: RANDOM_SEED of initial parameters and dropout.
    log_period: Steps between rows of the metrics log.
    budget: TRAIN_BUDGET, how long the stage trains, such as "30 min"; None
      trains for `steps`. With both, whichever ends first.
    budget_share: Fraction of the budget that is this stage's, where several
      share one.
    profile: Steps that JAX's profiler records; by default none.
    averaging: Mean of the parameters that is validated and handed over; None
      takes those of the last step.
  """

  model_dir: str = _REQUIRED
  task: str = _REQUIRED
  steps: int | None = _REQUIRED
  dataset: Dataset = _REQUIRED
  decoder: ModelConfig = _REQUIRED
  objective: Any = _REQUIRED
  optimizer: optax.GradientTransformation = _REQUIRED
  feed: Feed = _REQUIRED
  mesh: MeshShape = _REQUIRED
  checkpoints: CheckpointPolicy = _REQUIRED
  validation: Validation = _REQUIRED
  tuning: Tuning = EVERYTHING
  microbatches: int = 1
  initial_checkpoint: str | None = None
  use_cached: bool = False
  seed: int = 0
  log_period: int = 20
  profile: ProfileWindow = profiling.NOTHING
  averaging: Averaging | None = None
  budget: str | None = None
  budget_share: float = 1.0

  def __post_init__(self):
    """Refuses settings that do not fit together."""
    if not str(self.model_dir).strip():
      raise InputError(
        f"MODEL_DIR = {self.model_dir!r} names no folder. Write MODEL_DIR = "
        "'runs/mine', or '.' for the current one."
      )
    if os.path.isfile(os.path.expanduser(self.model_dir)):
      raise InputError(
        f"MODEL_DIR = {self.model_dir!r} is a file; it must be a folder, which "
        "is made if it is missing."
      )
    if "://" in str(self.model_dir):
      # As a path it would be a local folder, lost with the machine.
      raise InputError(
        f"MODEL_DIR = {self.model_dir!r} is no folder: mount the bucket and "
        "give its folder; the launch scripts do so by --bucket=NAME "
        "(docs/launch.md)."
      )
    check(
      self,
      steps=optional(at_least(1)),
      microbatches=at_least(1),
      log_period=at_least(1),
      budget_share=within("(0, 1]"),
    )
    self._check_end()
    family = family_of(self.decoder)
    if not isinstance(self.objective, family.objective):
      raise InputError(
        f"Stage.objective is a {_kind(self.objective)}, but a model of "
        f"{_kind(self.decoder)} is trained by a {family.objective.__name__}."
      )
    self._check_validation()
    if isinstance(self.decoder, SASRecConfig):
      self._check_item_feed(self.decoder.max_items)

  @property
  def budget_seconds(self) -> float | None:
    """Seconds that the stage may take; None for no limit."""
    if self.budget is None:
      return None
    return budgets.seconds_of(self.budget) * self.budget_share

  def _check_end(self) -> None:
    if self.budget_seconds is not None:
      return
    if self.steps is None:
      raise InputError(
        "The stage has no end: set TRAIN_STEPS to a number of updates, or "
        "TRAIN_BUDGET to a duration such as '30 min'."
      )
    for name, part in (
      ("Validation", self.validation), ("CheckpointPolicy", self.checkpoints)
    ):  # fmt: skip
      if part.period is None:
        raise InputError(
          f"{name}.period = None follows from TRAIN_BUDGET, which is not set: "
          "set it, or bind the period to a number of steps."
        )

  def _check_validation(self) -> None:
    policy = self.checkpoints
    for binding, chooses in (
      ("Validation.patience = None", self.validation.patience is not None),
      ('CheckpointPolicy.best_metric = ""', policy.best_metric != ""),
    ):
      if self.feed.split == "validation" and chooses:
        raise InputError(
          'Feed.split = "validation" trains on the validation targets, so that '
          f"nothing can be chosen by them. Bind {binding}."
        )
    if not self.validation.metrics and policy == CheckpointPolicy(
      period=policy.period, keep=policy.keep
    ):
      # Nobody chose a metric, and only losses are measured.
      policy = dataclasses.replace(
        policy, best_metric="loss", best_is_highest=False
      )
      object.__setattr__(self, "checkpoints", policy)
    known = (*self.validation.metrics, *self.objective.METRICS)
    if policy.best_metric and policy.best_metric not in known:
      refuse(
        policy,
        "best_metric",
        "a validation gives no such metric; choose one of "
        f"{', '.join(known)}.{nearest(policy.best_metric, known)}",
      )

  def _check_item_feed(self, longest: int) -> None:
    """Checks the feed of a model of item ids."""
    max_history = self.feed.max_history
    if max_history is None or max_history > longest:
      raise InputError(
        f"Feed.max_history = {max_history}, but the model has positions for "
        f"SASRecConfig.max_items = {longest}. Set MAX_HISTORY."
      )
    if self.feed.item_segments:
      raise InputError(
        "Feed.item_segments = True writes every target a second time for an "
        "item tower, which a model of item ids does not have. Bind it to False."
      )


@gin.configurable
def feature_length(name: str, lengths: Mapping[str, int]) -> int:
  """One of TASK_FEATURE_LENGTHS: the "tokens" or the "slots" of a row."""
  if name not in lengths:
    raise InputError(
      f"TASK_FEATURE_LENGTHS = {dict(lengths)}: {name!r} is missing. Set "
      '{"tokens": ..., "slots": ...}.'
    )
  return lengths[name]


def names() -> tuple[str, ...]:
  """Names of the stages in the applied configuration's chain."""
  return tuple(config.macro("STAGES", ())) or (stage_folder.SINGLE_STAGE,)


def members() -> tuple[str, ...]:
  """Names of the stages that are trained beside the chain, each from scratch.

  They give a fusion other models, such as SASRec.
  """
  return tuple(config.macro("MEMBERS", ()))


def chosen(wanted: str | None) -> tuple[str, ...]:
  """Names of the stages to run: that of `--stage`, else the whole chain."""
  chain = names()
  if wanted is None:
    return chain
  known = (*members(), *chain)
  if wanted not in known:
    raise config.ConfigurationError(
      f"--stage={wanted}: the recipe has {', '.join(known)}."
      f"{nearest(wanted, known)}"
    )
  return (wanted,)


def chain_of(name: str) -> tuple[str, ...]:
  """The chain that a stage is part of; a member's is the member alone."""
  return (name,) if name in members() else names()


def refuse_shared_start(chain: tuple[str, ...]) -> None:
  """Refuses an INITIAL_CHECKPOINT_PATH that is bound for all stages.

  It would discard the parameters of the stages before.
  """
  path = config.macro(_START, None)
  unbound = [
    name
    for name in chain[1:]
    if config.macro(f"{name}/{_START}", _START) == _START
  ]
  if path is not None and unbound:
    raise config.ConfigurationError(
      f"{_START} = {path!r} is set for all stages, so that {unbound[0]!r} "
      "would not start from the stage before it. Set it for the first one: "
      f"{chain[0]}/{_START}. (With --stage it is used as it is.)"
    )


def folder(stage: Stage, name: str) -> pathlib.Path:
  """The folder that a stage writes to."""
  return pathlib.Path(stage.model_dir).expanduser().absolute() / name


def with_vocabulary_of(
  stage: Stage, path: str | os.PathLike[str] | None
) -> Stage:
  """The stage with the vocabulary that a trained model's rows belong to.

  A `TrainedSentencePiece` is trained anew whenever the log has changed, and its
  ids then mean other texts than those of the model. So the one that is stored
  with the model is used, unless it is the same.

  Args:
    stage: Settings of the stage.
    path: Folder of a run, stage or checkpoint; None for no model.
  """
  dataset = stage.dataset
  if path is None or not isinstance(dataset.vocabulary, TrainedSentencePiece):
    return stage
  own = run_folder.vocabulary_of(path)
  if own is None or dataset.made_vocabulary(stage.task) == own.stored.sha256:
    return stage
  if jax.process_index() == 0:
    print(
      f"vocabulary: the trained model's own, of {pathlib.Path(own.path).parent}"
      f" ({own.stored.size:,} tokens)",
      file=sys.stderr,
    )
  dataset = dataclasses.replace(dataset, vocabulary=own)
  return dataclasses.replace(stage, dataset=dataset)


def parent_path(
  stage: Stage, name: str, stage_names: tuple[str, ...]
) -> str | os.PathLike[str] | None:
  """What a stage starts from: a path or a name; None is from scratch."""
  position = stage_names.index(name)
  if stage.initial_checkpoint or position == 0:
    return stage.initial_checkpoint
  return folder(stage, stage_names[position - 1])


def vocabulary_parent(
  stage: Stage, name: str, stage_names: tuple[str, ...]
) -> str | os.PathLike[str] | None:
  """What a stage takes its vocabulary from; None makes its own.

  A member starts from scratch, but reads the same texts as the chain, whose
  first stage may start from a model.
  """
  if name in members():
    for link in reversed(names()):
      if (start := config.macro(f"{link}/{_START}", None)) is not None:
        return start
    return config.macro(_START, None)
  return parent_path(stage, name, stage_names)


def open_caches(stage: Stage, progress: bool = True) -> list[TokenCache]:
  """The stage's token caches, built if they are missing."""
  missing = stage.dataset.missing(stage.task)
  if missing and stage.use_cached:
    raise FileNotFoundError(
      "USE_CACHED_TASKS = True, but there is no token cache for "
      f"{', '.join(domain.name for domain in missing)}. Build it with "
      "`calrec data cache` and the same gin files and flags."
    )
  paths = building.build(stage.dataset, stage.task, progress=progress)
  return [TokenCache.open(path) for path in paths.values()]


def documents_of(
  stage: Stage, caches: Sequence[TokenCache]
) -> Sequence[TokenCache]:
  """The caches as the stage's model reads them: texts, or item ids."""
  ids = family_of(stage.decoder).tokens == "ids"
  return by_item_ids(caches) if ids else caches


def vocabulary_size(caches: Sequence[TokenCache]) -> int:
  """Number of token ids in the vocabularies and the caches."""
  return max(
    max(cache.largest_token + 1, cache.vocabulary().size) for cache in caches
  )


def decoder_for(stage: Stage, caches: Sequence[TokenCache]) -> ModelConfig:
  """The stage's model with an embedding row for every token.

  A published model's embedding gets no rows beyond its tokens: they would enter
  every softmax.
  """
  config = stage.decoder.for_vocabulary(
    vocabulary_size(caches), exact=caches[0].vocabulary().pretrained
  )
  texts = [cache.texts() for cache in caches if isinstance(cache, ItemCache)]
  if isinstance(config, SASRecConfig) and config.text_tokens and texts:
    return dataclasses.replace(config, vocabulary_size=vocabulary_size(texts))
  return config


def find_source(
  stage: Stage, name: str, stage_names: tuple[str, ...]
) -> initial_parameters.ParameterSource | None:
  """The source of a stage's initial parameters; None is from scratch."""
  if stage.initial_checkpoint:
    return initial_parameters.open_source(stage.initial_checkpoint)
  position = stage_names.index(name)
  if position == 0:
    return None
  before = folder(stage, stage_names[position - 1])
  record = stage_folder.handover(before)
  if record is None:
    raise store.CheckpointError(
      f"The stage {name!r} starts from {before.name!r}, which has not finished "
      f"in {before}. Train that one first (without --stage), or set "
      "INITIAL_CHECKPOINT_PATH."
    )
  return initial_parameters.CheckpointSource(before / record["checkpoint"])


def feed_after(
  stage: Stage, source: initial_parameters.ParameterSource | None
) -> Feed:
  """The stage's feed, with what is new to its source; see `Feed.after`."""
  record = None
  if isinstance(source, initial_parameters.CheckpointSource):
    record = store.read_json(source.checkpoint, "lineage")
  return stage.feed.after(record, str(source or "scratch"))


def describe_training(
  stage: Stage, decoder: ModelConfig, feed_settings: Mapping[str, Any]
) -> dict[str, Any]:
  """Settings that decide the bits of a stage, with its data and its parent."""
  described = {
    "task": stage.task,
    "steps": stage.steps,
    "seed": stage.seed,
    _kind(decoder): _settings(decoder),
    _kind(stage.objective): _settings(stage.objective),
    "Tuning": dataclasses.asdict(stage.tuning),
    "feed": feed_settings,
    "optimizer": optimizer_bindings(),
  }
  if stage.microbatches > 1 and (
    decoder.dropout or stage.objective.is_stochastic
  ):
    # Each samples its own masks and items. Otherwise only rounding differs, as
    # on another mesh.
    described["microbatches"] = stage.microbatches
  if stage.averaging is not None:
    described["Averaging"] = dataclasses.asdict(stage.averaging)
  if stage.validation.patience is not None:
    # Validations may end the stage, so their settings matter.
    policy = stage.checkpoints
    described["early_stopping"] = {
      "Validation": dataclasses.asdict(stage.validation),
      "CheckpointPolicy": {
        name: getattr(policy, name)
        for name in ("period", "best_metric", "best_is_highest")
      },
    }
  return identity.plain(described)


# Settings that earlier releases did not have, with the values that change
# nothing: their runs still resume.
_ADDED_LATER = {"text_tokens": 0, "vocabulary_size": None, "full_up_to": 0}


def _settings(part: Any) -> dict[str, Any]:
  """The settings of a model or an objective, as a lineage records them."""
  settings = dataclasses.asdict(part)
  if isinstance(part, (SASRecConfig, NextItem)):
    for name, value in _ADDED_LATER.items():
      if name in settings and settings[name] == value:
        del settings[name]
  return settings


def optimizer_bindings() -> dict[str, Any]:
  """The stage's optimizer, and every bound value of `optimizers`."""
  bindings = gin.get_bindings("Stage", resolve_references=False)
  bound = {"Stage.optimizer": config.plain_value(bindings.get("optimizer"))}
  for function in optimizers.CONFIGURABLES:
    values = gin.get_bindings(function, resolve_references=False)
    for key, value in values.items():
      bound[f"{function.__name__}.{key}"] = config.plain_value(value)
  return bound


def _kind(settings: Any) -> str:
  """The class name, which gin files and lineages use."""
  return type(settings).__name__
