"""The runs of the table of Amazon's reviews; see `amazon_table`.

Tested by `tests/unit/evaluate/test_amazon_table.py`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.study import Run

TARGETS = ("amazon2014_office", "amazon2018_scientific", "amazon2014_beauty")
_SASREC = "recipes/amazon_small_sasrec.gin"
_RULES = (
  "sequential_rules",
  "bm25_last_item",
  "bm25_history",
  "popularity",
  "last_item",
)
# Four times the users of the others, so that validation is no longer cheap.
_SASREC_OF_TARGET = {
  "amazon2014_beauty": (
    "--gin.Validation.period=500",
    "--gin.Validation.patience=5",
  )
}
# Steps of a final fit, chosen by validation with seed 0 for the same schedules.
_FINAL_STEPS = {
  "amazon2014_office": {"dense": 1400, "sasrec": 2600},
  "amazon2018_scientific": {"dense": 700, "sasrec": 2500},
  "amazon2014_beauty": {"dense": 1400, "sasrec": 4500},
}
_SCHEDULE_STEPS = {"dense": 1400, "sasrec": 20_000}
_KNOWN = "--gin_file=stages/final_fit.gin"


# Passes over a target in stage two of a pretrained model.
_PASSES = dict(zip(TARGETS, (3, 3, 2), strict=True))


class TextModel(NamedTuple):
  """A CALRec model trained in two stages.

  Attributes:
    recipe: Recipe of both stages.
    label: Human-readable name.
    pass_steps: Steps per pass over each of `TARGETS`, for a stage two of
      `_PASSES` passes, validated after each; None takes the recipe's.
    final: Whether `_FINAL_STEPS` apply to this model.
  """

  recipe: str
  label: str
  pass_steps: tuple[int, ...] | None = None
  final: bool = False


MODELS = {
  "small": TextModel(
    "recipes/amazon_small_ranking.gin", "small CALRec", final=True
  ),
  "gemma": TextModel("recipes/amazon_gemma.gin", "Gemma 3 270M", (57, 45, 143)),
  "smollm2": TextModel(
    "recipes/amazon_smollm2.gin", "SmolLM2 135M", (65, 50, 163)
  ),
}


class Measured(NamedTuple):
  """An evaluation of a target and a seed.

  Attributes:
    recommenders: Names of the recommenders.
    dense: Training run of its text model.
    sasrec: Training run of its SASRec.
    trained: The only trained member of its fusion, next to the rules of the
      recipe's fusion; None takes the recipe's members.
    known: Whether count-based baselines also use the validation events.
  """

  recommenders: tuple[str, ...]
  dense: str = "dense"
  sasrec: str = "sasrec"
  trained: str | None = None
  known: bool = False

  def flags(self) -> Iterator[str]:
    """Flags of its fusion and of the known events."""
    if self.known:
      yield _KNOWN
    if self.trained is not None:
      members = (self.trained, "sequential_rules", "bm25_last_item")
      yield f"--gin.Fusion.members={_strings(members)}"
    if self.dense == "dense_final":
      # No validation users remain to choose weights.
      yield "--gin.Fusion.weights=()"


EVALUATIONS = {
  "all": Measured(("fused", "sasrec", "dense", *_RULES)),
  "others": Measured(("fused",), trained="sasrec"),
  "ruled": Measured(("fused",), trained="dense"),
  "full": Measured(("sasrec",), sasrec="sasrec_full"),
  "counted": Measured(
    ("fused", "dense", "sequential_rules", "popularity"), known=True
  ),
  "final": Measured(
    ("fused", "sasrec", "dense"), "dense_final", "sasrec_final", known=True
  ),
  "final_others": Measured(
    ("fused",), "dense_final", "sasrec_final", "sasrec", known=True
  ),
  "final_ruled": Measured(
    ("fused",), "dense_final", "sasrec_final", "dense", known=True
  ),
}


def plan(
  folder: pathlib.Path,
  root: pathlib.Path,
  seeds: Sequence[int],
  targets: Sequence[str],
  *,
  model: TextModel = MODELS["small"],
  kinds: Sequence[str] = tuple(EVALUATIONS),
  flags: Sequence[str] = (),
) -> Iterator[Run]:
  """Every run, after those it needs.

  Args:
    folder: Folder of the study.
    root: Parent of the domains' folders.
    seeds: Seeds of weights and data order.
    targets: Names of the target domains.
    model: Text model.
    kinds: Kinds of evaluations.
    flags: Extra flags of all runs.
  """
  for seed in seeds:
    common = (
      f"--gin.ROOT={_string(root)}",
      f"--gin.RANDOM_SEED={seed}",
      *flags,
    )
    joint = f"joint_{seed}"
    yield Run(
      joint,
      (
        "train",
        f"--gin_file={model.recipe}",
        "--stage=joint",
        f"--gin.MODEL_DIR={_string(folder / joint / 'model')}",
        *common,
      ),
    )
    for target in targets:
      yield from _of_target(folder, target, seed, model, kinds, common)


def _of_target(
  folder: pathlib.Path,
  target: str,
  seed: int,
  text_model: TextModel,
  kinds: Sequence[str],
  common: Sequence[str],
) -> Iterator[Run]:
  """What is trained and evaluated for one target and seed."""

  def name(kind: str) -> str:
    return f"{target}_{kind}_{seed}"

  def model(kind: str) -> pathlib.Path:
    return folder / name(kind) / "model"

  def stage_two(kind: str) -> tuple[str, ...]:
    return (
      f"--gin_file={text_model.recipe}",
      "--stage=target",
      f"--gin.target/MIXTURE_OR_TASK_NAME={_string(target)}",
      f"--gin.MODEL_DIR={_string(model(kind))}",
      *common,
    )

  joint = folder / f"joint_{seed}" / "model" / "joint"
  evaluations = {kind: EVALUATIONS[kind] for kind in kinds}
  for kind in dict.fromkeys(at.dense for at in evaluations.values()):
    yield Run(
      name(kind),
      (
        "train",
        *stage_two(kind),
        f"--gin.target/INITIAL_CHECKPOINT_PATH={_string(joint)}",
        *(_last_fit(target, kind) or _passes(target, text_model)),
      ),
      (f"joint_{seed}",),
    )
  for kind in dict.fromkeys(at.sasrec for at in evaluations.values()):
    yield Run(
      name(kind),
      (
        "train",
        f"--gin_file={_SASREC}",
        f"--gin.MIXTURE_OR_TASK_NAME={_string(target)}",
        f"--gin.MODEL_DIR={_string(model(kind))}",
        *(("--gin.NEGATIVES=None",) if kind == "sasrec_full" else ()),
        *(_last_fit(target, kind) or _SASREC_OF_TARGET.get(target, ())),
        *common,
      ),
    )
  for kind, measured in evaluations.items():
    sasrec = model(measured.sasrec) / "train"
    yield Run(
      name(f"eval_{kind}"),
      (
        "eval",
        *stage_two(measured.dense),
        f"--gin.EVAL_OUTPUT_DIR={_string(folder / name(f'eval_{kind}'))}",
        f"--gin.Evaluation.recommenders={_strings(measured.recommenders)}",
        f"--gin.trained_sasrec.checkpoint={_string(sasrec)}",
        *measured.flags(),
      ),
      (name(measured.dense), name(measured.sasrec)),
    )


def _last_fit(target: str, kind: str) -> tuple[str, ...]:
  """The flags of a training with the validation events; of others none."""
  model, _, final = kind.partition("_")
  if final != "final":
    return ()
  scope = "target/" if model == "dense" else ""
  return (
    _KNOWN,
    f"--gin.{scope}TRAIN_STEPS={_FINAL_STEPS[target][model]}",
    f"--gin.warmup_cosine.steps={_SCHEDULE_STEPS[model]}",
  )


def _passes(target: str, model: TextModel) -> tuple[str, ...]:
  """The flags of a stage two whose length depends on the target."""
  if model.pass_steps is None:
    return ()
  steps = model.pass_steps[TARGETS.index(target)]
  return (
    f"--gin.target/TRAIN_STEPS={steps * _PASSES[target]}",
    f"--gin.target/Validation.period={steps}",
    f"--gin.target/CheckpointPolicy.period={steps}",
  )


def _string(value: object) -> str:
  """As gin reads it, and as a shell leaves it between single quotes."""
  return f'"{value}"'


def _strings(values: Sequence[str]) -> str:
  return f"({' '.join(f'{_string(value)},' for value in values)})"
