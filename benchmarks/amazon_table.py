r"""The table of the small domains of Amazon's reviews, from one command.

    python -m benchmarks.amazon_table --root=FOLDER --output=runs/amazon_table

FOLDER has amazon2014_office, amazon2018_scientific and amazon2014_beauty
(gin/data/folders.gin). For every seed stage one is trained once, then for every
target stage two and SASRec with sampled and full softmax; all are evaluated on
all test users, together with baselines and their fusions. The full softmax
takes half of the time; --no-full_softmax omits it. Then the validation events
are added: first to the count-based baselines, then to all models by a final
fit, which --no-final_fit omits. Finished runs are not repeated (`study`);
--dry_run shows the commands. Flags --gin.NAME=VALUE apply to all runs.

  python -m benchmarks.amazon_table --root=FOLDER --output=runs/amazon_gemma \
    --model=gemma --seeds=0 --workers=1

uses a pretrained model instead of the small one, and needs a GPU.

The output has a folder for every run and `table.md`: the recommenders of each
target with intervals over users, paired differences, and the time of every run.
One seed takes about four hours on one server core.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.amazon_plan import EVALUATIONS, MODELS, TARGETS, plan
from benchmarks.study import Study, StudyError, describe
from calrec_jax.evaluate import (
  RunSide,
  average_runs,
  compare_runs,
  read_results,
  table,
)
from calrec_jax.storage import atomic

_SHOWN = ("recall@1", "recall@5", "recall@10", "ndcg@10", "mrr")
_COMPARED = ("recall@1", "recall@10", "ndcg@10")


class Shown(NamedTuple):
  """A row of the table.

  Attributes:
    label: Human-readable name; {model} is the text model's.
    evaluation: Kind of evaluation that measured it.
    recommender: Name of the recommender in it.
  """

  label: str
  evaluation: str
  recommender: str


_FUSED = Shown(
  "**dense, SASRec, sequential rules and BM25, fused**", "all", "fused"
)
_OTHERS = Shown("SASRec, sequential rules and BM25, fused", "others", "fused")
_RULED = Shown("**dense, sequential rules and BM25, fused**", "ruled", "fused")
_SAMPLED = Shown("SASRec, 512 corrected negatives", "all", "sasrec")
_FULL = Shown("SASRec, full softmax", "full", "sasrec")
_DENSE = Shown("**{model}, dense**", "all", "dense")
_SEQUENTIAL = Shown("sequential rules", "all", "sequential_rules")
_BM25 = Shown("BM25 on the last item", "all", "bm25_last_item")
_POPULARITY = Shown("popularity", "all", "popularity")
_COUNTED = Shown(f"{_FUSED.label}, not fitted again", "counted", "fused")
_COUNTED_RULES = _SEQUENTIAL._replace(evaluation="counted")
_FINAL = _FUSED._replace(evaluation="final")
_FINAL_OTHERS = _OTHERS._replace(evaluation="final_others")
_FINAL_SASREC = _SAMPLED._replace(evaluation="final")


class Part(NamedTuple):
  """A table of a target, and the differences below it.

  Attributes:
    heading: Heading, the events its recommenders use.
    rows: Recommenders.
    pairs: Pairs of recommenders to compare.
  """

  heading: str
  rows: tuple[Shown, ...]
  pairs: tuple[tuple[Shown, Shown], ...]


PARTS = (
  Part(
    "Trained and counted without the validation events",
    (
      _FUSED,
      _OTHERS,
      _RULED,
      _FULL,
      _SAMPLED,
      _SEQUENTIAL,
      _DENSE,
      _BM25,
      Shown("BM25 on the history", "all", "bm25_history"),
      _POPULARITY,
      Shown("last item", "all", "last_item"),
    ),
    (
      (_FUSED, _SAMPLED),
      (_FUSED, _FULL),
      (_FUSED, _SEQUENTIAL),
      (_FUSED, _OTHERS),
      (_RULED, _SEQUENTIAL),
      (_RULED, _SAMPLED),
      (_DENSE, _SAMPLED),
      (_DENSE, _SEQUENTIAL),
      (_DENSE, _BM25),
    ),
  ),
  Part(
    "With the validation events",
    (
      _FINAL,
      _FINAL_OTHERS,
      _RULED._replace(evaluation="final_ruled"),
      _COUNTED,
      _FINAL_SASREC,
      _COUNTED_RULES,
      _DENSE._replace(evaluation="final"),
      Shown(f"{_DENSE.label}, not fitted again", "counted", "dense"),
      _POPULARITY._replace(evaluation="counted"),
    ),
    (
      (_FINAL, _FINAL_SASREC),
      (_FINAL, _COUNTED_RULES),
      (_FINAL, _FINAL_OTHERS),
      (_FINAL, _COUNTED),
      (_COUNTED, _FUSED),
      (_COUNTED_RULES, _SEQUENTIAL),
    ),
  ),
)


def main(argv: Sequence[str] | None = None) -> int:
  """Makes the table, or resumes it."""
  arguments = _parse(argv)
  folder = pathlib.Path(arguments.output).expanduser().absolute()
  root = pathlib.Path(arguments.root).expanduser().absolute()
  model = MODELS[arguments.model]
  kinds = [
    name
    for name, measured in EVALUATIONS.items()
    if (arguments.full_softmax or name != "full")
    and ((arguments.final_fit and model.final) or not measured.known)
  ]
  runs = list(
    plan(
      folder,
      root,
      arguments.seeds,
      arguments.targets,
      model=model,
      kinds=kinds,
      flags=arguments.flags,
    )
  )
  if arguments.dry_run:
    print("\n".join(run.command() for run in runs))
    return 0
  study = Study(folder, runs, arguments.workers)
  try:
    done = study.work()
  except StudyError as error:
    print(f"amazon_table: {error}", file=sys.stderr)
    return 1
  parts = [
    *(
      of_target(folder, at, arguments.seeds, kinds, model.label)
      for at in arguments.targets
    ),
    f"## Runs\n\n{describe(done)}",
  ]
  text = "\n\n".join(parts)
  atomic.write_text(folder / "table.md", text + "\n")
  print(f"\n{text}\n\ntable: {folder / 'table.md'}")
  return 0


def of_target(
  folder: pathlib.Path,
  target: str,
  seeds: Sequence[int],
  kinds: Sequence[str] = tuple(EVALUATIONS),
  model: str = MODELS["small"].label,
) -> str:
  """The tables of one target, as Markdown.

  Args:
    folder: Folder of the finished study.
    target: Name of the domain.
    seeds: Seeds of the runs.
    kinds: Kinds of evaluations.
    model: Label of the text model.
  """

  def side(row: Shown) -> RunSide:
    name = f"{target}_eval_{row.evaluation}"
    return RunSide(
      tuple(folder / f"{name}_{seed}" / target for seed in seeds),
      row.recommender,
    )

  first = read_results(side(_FUSED).folders[0])
  card = first.data
  hashes = {
    **{file["file"]: file["sha256"] for file in card["inputs"]},
    "test": card["outputs"]["test"],
  }
  lines = [
    f"## {target}",
    "",
    f"{first.protocol['users']:,} users, {first.protocol['items']:,} items, "
    f"candidates: {table.RULE_TEXTS[first.protocol['candidates']]}; seeds "
    f"{', '.join(map(str, seeds))}; sha256 "
    + ", ".join(f"{name} {value[:12]}" for name, value in hashes.items()),
  ]
  for part in PARTS:
    rows = [row for row in part.rows if row.evaluation in kinds]
    pairs = [pair for pair in part.pairs if {*pair} <= {*rows, *PARTS[0].rows}]
    if not rows:
      continue
    lines += ["", f"### {part.heading}", "", *_of_rows(rows, side)]
    lines += ["", *_of_pairs(pairs, side)]
  return "\n".join(lines).replace("{model}", model)


def _of_rows(
  rows: Sequence[Shown], side: Callable[[Shown], RunSide]
) -> Iterator[str]:
  labels = [table.metric_label(name) for name in _SHOWN]
  yield f"| | {' | '.join(labels)} | NDCG@10 of the runs |"
  yield "|---" * (len(labels) + 2) + "|"
  for row in rows:
    entries = average_runs(side(row))
    cells = [table.interval(entries[name]) for name in _SHOWN]
    spread = [table.number(run) for run in sorted(entries["ndcg@10"]["runs"])]
    # Rules have no seeds.
    cells.append(f"{spread[0]}–{spread[-1]}" if spread[0] < spread[-1] else "")
    yield f"| {row.label} | {' | '.join(cells)} |"


def _of_pairs(
  pairs: Sequence[tuple[Shown, Shown]], side: Callable[[Shown], RunSide]
) -> Iterator[str]:
  labels = [table.metric_label(name) for name in _COMPARED]
  yield f"| difference, user by user | {' | '.join(labels)} |"
  yield "|---" * (len(labels) + 1) + "|"
  for one, other in pairs:
    [pair] = compare_runs(side(one), side(other))["pairs"]
    cells = [_difference(pair["metrics"][name]) for name in _COMPARED]
    label = f"{one.label} against {other.label}".replace("**", "")
    known = [EVALUATIONS[row.evaluation].known for row in (one, other)]
    if known == [True, False]:
      label += " without the events"
    yield f"| {label} | {' | '.join(cells)} |"


def _difference(entry: dict[str, Any]) -> str:
  """`+.0115 [+.0080, +.0152], +18%`."""
  relative = f", {entry['value'] / entry['b']:+.0%}" if entry["b"] else ""
  return f"{table.interval(entry, signed=True)}{relative}"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.amazon_table",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--root", required=True, help="folder of the domains")
  parser.add_argument("--output", required=True, help="folder of the runs")
  parser.add_argument(
    "--model",
    choices=MODELS,
    default="small",
    help="text model (default: %(default)s); only the small one has final fits",
  )
  parser.add_argument(
    "--seeds",
    type=lambda text: [int(part) for part in text.split(",")],
    default=[0, 1, 2],
    help="comma-separated seeds (default: 0,1,2)",
  )
  parser.add_argument(
    "--targets",
    type=lambda text: text.split(","),
    default=list(TARGETS),
    help="comma-separated domains (default: all three)",
  )
  parser.add_argument(
    "--workers",
    type=int,
    help="parallel runs, which divide the cores (default: one per core)",
  )
  parser.add_argument(
    "--full_softmax",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="also train and show SASRec with the full softmax",
  )
  parser.add_argument(
    "--final_fit",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="also measure with the validation events included",
  )
  parser.add_argument(
    "--dry_run", action="store_true", help="show the commands of the runs"
  )
  arguments, arguments.flags = parser.parse_known_args(argv)
  for flag in arguments.flags:
    if not flag.startswith("--gin."):
      parser.error(f"unknown argument {flag}")
  for target in arguments.targets:
    if target not in TARGETS:
      parser.error(f"--targets: {target!r} is not one of {', '.join(TARGETS)}")
  return arguments


if __name__ == "__main__":
  sys.exit(main())
