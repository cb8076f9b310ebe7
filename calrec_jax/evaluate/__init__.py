"""How good is a ranking, how sure is that, and what does it look like.

`metrics` turns ranked lists into one number per user, `intervals` says how far
their mean can be trusted, `slices` groups users, `evaluator` runs recommenders
over a split, `results` writes `metrics.json` and `per_user.parquet`, `table`
prints, `report` draws. `docs/evaluation.md` spells out the rules.
"""

from calrec_jax.evaluate.evaluator import Protocol, evaluate
from calrec_jax.evaluate.intervals import Bootstrap, Interval
from calrec_jax.evaluate.report import write_report
from calrec_jax.evaluate.results import Results, read_results, write_results
from calrec_jax.evaluate.table import format_table

__all__ = [
  "Bootstrap",
  "Interval",
  "Protocol",
  "Results",
  "evaluate",
  "format_table",
  "read_results",
  "write_report",
  "write_results",
]
