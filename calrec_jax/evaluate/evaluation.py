"""The settings of an evaluation job.

Apart from `eval`, which runs it: `python -m calrec_jax.eval` would make the
same class twice, and gin could not tell them apart.
"""

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
    checkpoint: CHECKPOINT_PATH: a `checkpoint_<step>` folder or a stage's;
      None takes what the evaluated stage handed over.
    output_dir: EVAL_OUTPUT_DIR; None is `eval` in the stage's folder.
    split: "test" or "validation".
    users: at most so many users of a domain, drawn once; None takes all.
    seed: of that draw.
  """

  recommenders: Sequence[str] = (
    *MODEL_RECOMMENDERS,
    *BASELINES,
  )
  checkpoint: str | None = None
  output_dir: str | None = None
  split: str = "test"
  users: int | None = None
  seed: int = 0
