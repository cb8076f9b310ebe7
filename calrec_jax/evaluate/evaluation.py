"""The settings of an evaluation job; `job` runs it."""

import dataclasses
from collections.abc import Sequence

import gin

from calrec_jax.recommend.registry import BASELINES, MODEL_RECOMMENDERS


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
  """One evaluation job.

  Attributes:
    recommenders: Names out of `calrec_jax.recommend.registry`, in the order
      of the table.
    checkpoint: CHECKPOINT_PATH, a `checkpoint_<step>` folder or a stage's;
      None takes the one that the evaluated stage exported.
    output_dir: EVAL_OUTPUT_DIR; None is `eval` in the stage's folder.
    split: Split of the targets, "test" or "validation".
    users: Most users of a domain, sampled once; None takes all.
    seed: Seed of that sample.
  """

  recommenders: Sequence[str] = (*MODEL_RECOMMENDERS, *BASELINES)
  checkpoint: str | None = None
  output_dir: str | None = None
  split: str = "test"
  users: int | None = None
  seed: int = 0
