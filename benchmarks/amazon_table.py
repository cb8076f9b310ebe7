"""The table of the small domains of Amazon's reviews, from one command.

    python -m benchmarks.amazon_table --root=FOLDER --output=runs/amazon_table

FOLDER holds amazon2014_office, amazon2018_scientific and amazon2014_beauty
(gin/data/folders.gin). For every seed stage one is trained once, then for every
target stage two, SASRec with sampled and with full softmax, and all of them are
evaluated on all test users beside rules and fused with one another. The full
softmax takes half of the time: --no-full_softmax leaves it out. Then the
validation events become known: first to those who only count, then to all by a
last fit, which --no-final_fit leaves out. Runs that are done are not done again
(`study`); --dry_run shows their commands. Flags --gin.NAME=VALUE go to all
runs.

The output gets a folder for every run and `table.md`: the recommenders of each
target with intervals over users, their differences user by user, and what every
run took. On one core of a server that is some four hours for one seed.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.study import Run, Study, StudyError, describe
from calrec_jax import atomic
from calrec_jax.evaluate import (
  RunSide,
  average_runs,
  compare_runs,
  read_results,
  table,
)

TARGETS = ("amazon2014_office", "amazon2018_scientific", "amazon2014_beauty")
_RANKING = "recipes/amazon_small_ranking.gin"
_SASREC = "recipes/amazon_small_sasrec.gin"
_RULES = (
  "sequential_rules",
  "bm25_last_item",
  "bm25_history",
  "popularity",
  "last_item",
)
# Four times the users of the others: their validation is no longer cheap.
_SASREC_OF_TARGET = {
  "amazon2014_beauty": (
    "--gin.Validation.period=500",
    "--gin.Validation.patience=5",
  )
}
_SHOWN = ("recall@1", "recall@5", "recall@10", "ndcg@10", "mrr")
_COMPARED = ("recall@1", "recall@10", "ndcg@10")


# Steps of a last fit: those that validation chose with seed 0, of the same
# schedules.
_FINAL_STEPS = {
  "amazon2014_office": {"dense": 1400, "sasrec": 2600},
  "amazon2018_scientific": {"dense": 700, "sasrec": 2500},
  "amazon2014_beauty": {"dense": 1400, "sasrec": 4500},
}
_SCHEDULE_STEPS = {"dense": 1400, "sasrec": 20_000}
_KNOWN = "--gin_file=stages/final_fit.gin"


class Shown(NamedTuple):
  """A row of the table.

  Attributes:
    label: for people.
    evaluation: the kind of evaluation that measured it.
    recommender: its name there.
  """

  label: str
  evaluation: str
  recommender: str


class Measured(NamedTuple):
  """What an evaluation of a target and a seed measures.

  Attributes:
    recommenders: their names.
    dense: the training that its small CALRec is of.
    sasrec: the training that its SASRec is of.
    trained: the one trained member of its fusion, joined with the rules that
      the recipe's fusion has; None takes the recipe's members.
    known: whether the validation events are known to those who count.
  """

  recommenders: tuple[str, ...]
  dense: str = "dense"
  sasrec: str = "sasrec"
  trained: str | None = None
  known: bool = False

  def flags(self) -> Iterator[str]:
    """Those of its fusion, and of what is known."""
    if self.known:
      yield _KNOWN
    if self.trained is not None:
      members = (self.trained, "sequential_rules", "bm25_last_item")
      yield f"--gin.Fusion.members={_strings(members)}"
    if self.dense == "dense_final":
      # No users are left to choose weights by.
      yield "--gin.Fusion.weights=()"


_EVALUATIONS = {
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
_ALL_FUSED = "**dense, SASRec, sequential rules and BM25, fused**"
_OTHERS_FUSED = "SASRec, sequential rules and BM25, fused"
_RULED_FUSED = "**dense, sequential rules and BM25, fused**"
_CALREC = "**small CALRec, dense**"

_FUSED = Shown(_ALL_FUSED, "all", "fused")
_OTHERS = Shown(_OTHERS_FUSED, "others", "fused")
_RULED = Shown(_RULED_FUSED, "ruled", "fused")
_SAMPLED = Shown("SASRec, 512 corrected negatives", "all", "sasrec")
_FULL = Shown("SASRec, full softmax", "full", "sasrec")
_DENSE = Shown(_CALREC, "all", "dense")
_SEQUENTIAL = Shown("sequential rules", "all", "sequential_rules")
_BM25 = Shown("BM25 on the last item", "all", "bm25_last_item")
_COUNTED = Shown(f"{_ALL_FUSED}, not fitted again", "counted", "fused")
_COUNTED_RULES = Shown("sequential rules", "counted", "sequential_rules")
_FINAL = Shown(_ALL_FUSED, "final", "fused")
_FINAL_OTHERS = Shown(_OTHERS_FUSED, "final_others", "fused")
_FINAL_SASREC = Shown("SASRec, 512 corrected negatives", "final", "sasrec")


class Part(NamedTuple):
  """A table of a target, and the differences under it.

  Attributes:
    heading: what its recommenders know.
    rows: the recommenders.
    pairs: those that are compared, user by user.
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
      Shown("popularity", "all", "popularity"),
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
      Shown(_RULED_FUSED, "final_ruled", "fused"),
      _COUNTED,
      _FINAL_SASREC,
      _COUNTED_RULES,
      Shown(_CALREC, "final", "dense"),
      Shown(f"{_CALREC}, not fitted again", "counted", "dense"),
      Shown("popularity", "counted", "popularity"),
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
  """Makes the table, or goes on with it."""
  arguments = _parse(argv)
  folder = pathlib.Path(arguments.output).expanduser().absolute()
  root = pathlib.Path(arguments.root).expanduser().absolute()
  kinds = [
    name
    for name, measured in _EVALUATIONS.items()
    if (arguments.full_softmax or name != "full")
    and (arguments.final_fit or not measured.known)
  ]
  runs = list(
    plan(
      folder,
      root,
      arguments.seeds,
      arguments.targets,
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
      of_target(folder, at, arguments.seeds, kinds) for at in arguments.targets
    ),
    f"## Runs\n\n{describe(done)}",
  ]
  text = "\n\n".join(parts)
  atomic.write_text(folder / "table.md", text + "\n")
  print(f"\n{text}\n\ntable: {folder / 'table.md'}")
  return 0


def plan(
  folder: pathlib.Path,
  root: pathlib.Path,
  seeds: Sequence[int],
  targets: Sequence[str],
  *,
  kinds: Sequence[str] = tuple(_EVALUATIONS),
  flags: Sequence[str] = (),
) -> Iterator[Run]:
  """Every run, behind those it needs.

  Args:
    folder: of the study.
    root: of the domains.
    seeds: of weights and the order of the data.
    targets: names of domains.
    kinds: of evaluations.
    flags: further ones for all runs.
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
        f"--gin_file={_RANKING}",
        "--stage=joint",
        f"--gin.MODEL_DIR={_string(folder / joint / 'model')}",
        *common,
      ),
    )
    for target in targets:
      yield from _of_target(folder, target, seed, kinds, common)


def _of_target(
  folder: pathlib.Path,
  target: str,
  seed: int,
  kinds: Sequence[str],
  common: Sequence[str],
) -> Iterator[Run]:
  """What is trained and evaluated for one target and seed."""

  def place(kind: str) -> str:
    return f"{target}_{kind}_{seed}"

  def model(kind: str) -> pathlib.Path:
    return folder / place(kind) / "model"

  def stage_two(kind: str) -> tuple[str, ...]:
    return (
      f"--gin_file={_RANKING}",
      "--stage=target",
      f"--gin.target/MIXTURE_OR_TASK_NAME={_string(target)}",
      f"--gin.MODEL_DIR={_string(model(kind))}",
      *common,
    )

  joint = folder / f"joint_{seed}" / "model" / "joint"
  evaluations = {kind: _EVALUATIONS[kind] for kind in kinds}
  for kind in dict.fromkeys(at.dense for at in evaluations.values()):
    yield Run(
      place(kind),
      (
        "train",
        *stage_two(kind),
        f"--gin.target/INITIAL_CHECKPOINT_PATH={_string(joint)}",
        *_last_fit(target, kind),
      ),
      (f"joint_{seed}",),
    )
  for kind in dict.fromkeys(at.sasrec for at in evaluations.values()):
    yield Run(
      place(kind),
      (
        "train",
        f"--gin_file={_SASREC}",
        f"--gin.MIXTURE_OR_TASK_NAME={_string(target)}",
        f"--gin.MODEL_DIR={_string(model(kind))}",
        *(("--gin.NEGATIVES=None",) if kind == "sasrec_full" else ()),
        *_SASREC_OF_TARGET.get(target, ()),
        *_last_fit(target, kind),
        *common,
      ),
    )
  for kind, measured in evaluations.items():
    sasrec = model(measured.sasrec) / "train"
    yield Run(
      place(f"eval_{kind}"),
      (
        "eval",
        *stage_two(measured.dense),
        f"--gin.EVAL_OUTPUT_DIR={_string(folder / place(f'eval_{kind}'))}",
        f"--gin.Evaluation.recommenders={_strings(measured.recommenders)}",
        f"--gin.trained_sasrec.checkpoint={_string(sasrec)}",
        *measured.flags(),
      ),
      (place(measured.dense), place(measured.sasrec)),
    )


def _last_fit(target: str, kind: str) -> Iterator[str]:
  """The flags of a training with the validation events; of others none."""
  model, _, final = kind.partition("_")
  if final != "final":
    return
  scope = "target/" if model == "dense" else ""
  yield _KNOWN
  yield f"--gin.{scope}TRAIN_STEPS={_FINAL_STEPS[target][model]}"
  yield f"--gin.warmup_cosine.steps={_SCHEDULE_STEPS[model]}"


def of_target(
  folder: pathlib.Path,
  target: str,
  seeds: Sequence[int],
  kinds: Sequence[str] = tuple(_EVALUATIONS),
) -> str:
  """The tables of one target, as Markdown.

  Args:
    folder: of the study, whose runs are done.
    target: name of the domain.
    seeds: that were run.
    kinds: of evaluations that were.
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
  return "\n".join(lines)


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
    # Rules know no seeds.
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
    known = [_EVALUATIONS[row.evaluation].known for row in (one, other)]
    if known == [True, False]:
      label += " without the events"
    yield f"| {label} | {' | '.join(cells)} |"


def _string(value: object) -> str:
  """As gin reads it, and as a shell leaves it between single quotes."""
  return f'"{value}"'


def _strings(values: Sequence[str]) -> str:
  return f"({' '.join(f'{_string(value)},' for value in values)})"


def _difference(entry: dict[str, Any]) -> str:
  """`+.0115 [+.0080, +.0152], +18%`."""
  share = f", {entry['value'] / entry['b']:+.0%}" if entry["b"] else ""
  return f"{table.interval(entry, signed=True)}{share}"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.amazon_table",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--root", required=True, help="folder of the domains")
  parser.add_argument("--output", required=True, help="folder of the runs")
  parser.add_argument(
    "--seeds",
    type=lambda text: [int(part) for part in text.split(",")],
    default=[0, 1, 2],
    help="joined by commas (default: 0,1,2)",
  )
  parser.add_argument(
    "--targets",
    type=lambda text: text.split(","),
    default=list(TARGETS),
    help="domains, joined by commas (default: all three)",
  )
  parser.add_argument(
    "--workers", type=int, help="runs at once (default: one for every core)"
  )
  parser.add_argument(
    "--full_softmax",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="train and show SASRec with the full softmax as well",
  )
  parser.add_argument(
    "--final_fit",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="measure with the validation events known as well",
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
      parser.error(f"--targets: {target!r} is none of {', '.join(TARGETS)}")
  return arguments


if __name__ == "__main__":
  sys.exit(main())
