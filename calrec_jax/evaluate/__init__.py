"""Evaluating rankings: metrics with intervals, comparisons and a report.

`evaluator` runs recommenders over a split, `sharded` does it with many
processes, `slices` groups users, `results` writes `metrics.json` and
`per_user.parquet`, `compare` compares runs, `table` prints, `report` draws.
`promise` measures before any training, for the card of a log.
`calrec_jax.metrics` defines the metrics, `docs/evaluation.md` the rules.
"""

from calrec_jax.evaluate.compare import (
  RunSide,
  average_runs,
  compare_runs,
  format_comparison,
  write_comparison,
)
from calrec_jax.evaluate.evaluator import Protocol, evaluate
from calrec_jax.evaluate.report.page import write_report
from calrec_jax.evaluate.results import Results, read_results, write_results
from calrec_jax.evaluate.sharded import ShardedEvaluation
from calrec_jax.evaluate.table import format_table
from calrec_jax.metrics.intervals import Bootstrap, Interval
from calrec_jax.storage.blocks import Job, Shard

__all__ = [
  "Bootstrap",
  "Interval",
  "Job",
  "Protocol",
  "Results",
  "RunSide",
  "Shard",
  "ShardedEvaluation",
  "average_runs",
  "compare_runs",
  "evaluate",
  "format_comparison",
  "format_table",
  "read_results",
  "write_comparison",
  "write_report",
  "write_results",
]
