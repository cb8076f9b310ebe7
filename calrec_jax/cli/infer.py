"""`calrec infer`: recommends items to users of the log, or to new histories."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import jax

from calrec_jax import config
from calrec_jax.cli import of_run, verb
from calrec_jax.recommend import answering, candidates
from calrec_jax.recommend.candidates import DEFAULT, RULES
from calrec_jax.runtime import distributed, partitioning
from calrec_jax.storage.blocks import Shard
from calrec_jax.train import stages
from calrec_jax.train.stages import Stage

_EPILOG = """\
Without --user and --histories every user of the log gets recommendations, from
all purchases; count-based baselines count the whole log. Whoever cannot get an
answer from purchases of their own gets what is bought most, and `reason` says
why. A trained run needs no gin file, also for a log that has grown:

  calrec infer --run=runs/own_log --output=recommendations.parquet
  calrec infer --run=runs/own_log --gin.INTERACTIONS="'today.csv'" --user=anna

A file of histories is read like a log. It holds a history in each row, the
oldest item first, or one event, with the log's names of columns or these:

  {"user_id": "anna", "items": ["sku-1", "sku-7"]}               JSON lines
  user_id,item_id,timestamp                                      CSV

  calrec infer --run=runs/own_log --histories=new.csv --top_k=5

With --output the work is saved block by block (Job.block_users) next to the
file until it is complete: an interrupted job resumes when it is rerun with the
same flags. Two processes, or two machines that share the folder, use
--shard=0/2 and --shard=1/2.
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the verb on a command line and returns the exit status."""
  arguments = _parse(argv)
  of_run.open_run(arguments)
  configuration = arguments.configuration
  configuration.apply()
  name = stages.chosen(arguments.stage)[-1]
  with configuration.stage(name), config.explained():
    if arguments.dry_run:
      print(config.text())
      return 0
    _answer(arguments, name)
  return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = verb.parser("infer", __doc__, _EPILOG)
  of_run.add_flag(parser)
  requests = parser.add_mutually_exclusive_group()
  requests.add_argument(
    "--user", action="append", help="id of a user of the log (repeatable)"
  )
  requests.add_argument(
    "--histories", help="new histories: JSON lines, CSV or Parquet"
  )
  parser.add_argument("--domain", help="for a stage of several domains")
  parser.add_argument("--stage", help="the stage whose model recommends")
  parser.add_argument("--checkpoint", help="another checkpoint or stage folder")
  parser.add_argument(
    "--recommender",
    default="fused",
    help="fused, dense, generate, constrained, reranked, sasrec, or a baseline "
    "(default: %(default)s)",
  )
  parser.add_argument(
    "--top_k",
    type=int,
    default=10,
    help="recommendations per user (default: %(default)s)",
  )
  parser.add_argument(
    "--candidates",
    choices=RULES,
    help="which items may be recommended (default: CANDIDATES, not_last)",
  )
  parser.add_argument(
    "--output", help="a .jsonl or .parquet file; without it, to the terminal"
  )
  parser.add_argument(
    "--shard",
    metavar="INDEX/COUNT",
    help="this process's shard of the users, as 0/4; process 0 writes the file "
    "(default: all, or by CALREC_PROCESS_ID)",
  )
  parser.add_argument(
    "--skip_unknown",
    action="store_true",
    help="leave out items that are missing in the catalogue without a reason",
  )
  arguments = config.parse_arguments(parser, argv)
  if arguments.top_k < 1:
    parser.error(f"--top_k={arguments.top_k}: must be at least 1.")
  if arguments.shard and not arguments.output:
    parser.error("--shard needs --output: the processes share its folder.")
  return arguments


def _answer(arguments: argparse.Namespace, name: str) -> None:
  stage = Stage()
  folder = stages.folder(stage, name)
  stage = stages.with_vocabulary_of(stage, arguments.checkpoint or folder)
  job = answering.Inference(
    recommender=arguments.recommender,
    top_k=arguments.top_k,
    rule=arguments.candidates or config.macro(candidates.MACRO, DEFAULT),
    users=arguments.user,
    histories=arguments.histories,
    skip_unknown=arguments.skip_unknown,
    domain=arguments.domain,
    checkpoint=arguments.checkpoint,
    output=arguments.output,
    shard=Shard.parse(arguments.shard)
    if arguments.shard
    else Shard(*distributed.processes()),
  )
  # Processes share nothing but files, so each has a mesh of its own devices.
  mesh = partitioning.make_mesh(stage.mesh, jax.local_devices())
  with partitioning.activate(mesh, partitioning.logical_axis_rules()):
    caches = stages.open_caches(stage)
    answers = answering.run(
      job,
      dataset=stage.dataset,
      caches=caches,
      decoder=stages.decoder_for(stage, caches),
      folder=folder,
      feed=stage.feed,
      mesh=mesh,
    )
  for line in answers:
    reason = f" ({line['reason']})" if line["reason"] else ""
    print(f"user {line['user_id'] or '?'}, by {line['recommender']}{reason}")
    for rank, item in enumerate(line["items"], start=1):
      shown = f"{item['score']:.4f}  {item['item_id']}  {item['text']}"
      print(f"  {rank:>2}  {shown}")
