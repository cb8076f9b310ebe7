"""`calrec infer`: recommends items to users of the log, or to new histories."""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from calrec_jax import config
from calrec_jax.cli import verb
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.records import Catalogue
from calrec_jax.errors import InputError
from calrec_jax.recommend import output, provenance, registry
from calrec_jax.recommend.prompts import prompt_limits
from calrec_jax.recommend.protocol import RULES, Recommender, answers_of
from calrec_jax.recommend.requests import Request, read_histories
from calrec_jax.recommend.trained_model import open_model
from calrec_jax.runtime import distributed, partitioning
from calrec_jax.storage import atomic
from calrec_jax.storage.blocks import (
  RECOMMENDING,
  Job,
  Parts,
  Share,
  code_digest,
)
from calrec_jax.train import stages
from calrec_jax.train.stages import Stage

_EPILOG = """\
Without --user and --histories every user of the log gets recommendations, from
the whole history; count-based baselines count the whole log.
A file of histories holds one JSON object a line:

  {"user_id": "anna", "items": ["sku-1", "sku-7"]}       (oldest first)

  calrec infer --gin_file=recipes/quickstart.gin --user=1 --top_k=5
  calrec infer --gin_file=recipes/quickstart.gin \\
    --histories=new.jsonl --output=recommendations.parquet

With --output the work is saved block by block (Job.block_users) beside the file
until it is whole: rerun with the same flags, an interrupted job resumes.
Several processes, on machines that share the folder, take --shard=0/2 and
--shard=1/2.
"""
_BATCH_USERS = 256
# All users and purchases of the log, the newest too.
_KNOWN = "train+validation+test"
# Programs whose text decides an answer.
_PROGRAMS = (*RECOMMENDING, "cli/infer.py")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the verb.

  Args:
    argv: the command line without the program's name.

  Returns:
    The exit status.
  """
  arguments = _parse(argv)
  configuration = arguments.configuration
  configuration.apply()
  name = stages.chosen(arguments.stage)[-1]
  with configuration.stage(name), config.explained():
    if arguments.dry_run:
      print(config.text())
      return 0
    answer(arguments, name)
  return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = verb.parser("infer", __doc__, _EPILOG)
  asking = parser.add_mutually_exclusive_group()
  asking.add_argument(
    "--user", action="append", help="id of a user of the log (repeatable)"
  )
  asking.add_argument("--histories", help="JSON lines of new histories")
  parser.add_argument("--domain", help="where the stage has several domains")
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
    default="not_last",
    help="which items may be recommended (default: %(default)s)",
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
    help="drop and count items that are missing in the catalogue",
  )
  arguments = config.parse_arguments(parser, argv)
  if arguments.top_k < 1:
    parser.error(f"--top_k={arguments.top_k}: must be at least 1.")
  if arguments.shard and not arguments.output:
    parser.error("--shard needs --output: the processes share its folder.")
  return arguments


def answer(arguments: argparse.Namespace, name: str) -> None:
  """Answers the requests of a command line."""
  stage = Stage()
  if arguments.output:
    output.writer_of(
      arguments.output
    )  # A wrong suffix is said before the work.
  share = (
    Share.parse(arguments.shard)
    if arguments.shard
    else Share(*distributed.processes())
  )
  # Processes share nothing but files, so each has a mesh of its own devices.
  mesh = partitioning.make_mesh(stage.mesh, jax.local_devices())
  with partitioning.activate(mesh, partitioning.logical_axis_rules()):
    caches = stages.open_caches(stage)
    cache = _choose(caches, arguments.domain)
    requests = _requests(arguments, cache)
    model = None
    if registry.needs_model([arguments.recommender]):
      model = open_model(
        arguments.checkpoint or stages.folder(stage, name),
        caches[0],
        stages.decoder_for(stage, caches),
        mesh,
      )
    limits = prompt_limits(stage.feed)
    workshop = registry.Workshop(
      cache,
      model,
      limits,
      mesh,
      counted=_KNOWN,
      share=share.index,
      shares=share.count,
    )
    [recommender] = workshop.make([arguments.recommender])
    answering = _Answering(
      recommender,
      cache.catalogue,
      arguments.top_k,
      arguments.candidates,
    )
    if not arguments.output:
      for line in answering.answers(requests, _bar(answering.name, requests)):
        _show(line)
      return
    made_by = {
      "counted": _KNOWN,
      **provenance.of_answers(cache, model, limits, mesh),
    }
    _write_all(
      answering, requests, pathlib.Path(arguments.output), made_by, share
    )


class _Answering(NamedTuple):
  """How requests are answered."""

  recommender: Recommender
  catalogue: Catalogue
  top_k: int
  candidates: str

  @property
  def name(self) -> str:
    return self.recommender.name

  def answers(
    self, requests: Sequence[Request], bar: tqdm.tqdm
  ) -> list[dict[str, Any]]:
    """One answer a request, in their order."""
    answers = []
    for start in range(0, len(requests), _BATCH_USERS):
      part = requests[start : start + _BATCH_USERS]
      ranking = self.recommender.recommend(
        [request.items for request in part],
        depth=self.top_k,
        rules=(self.candidates,),
      )[self.candidates]
      answers += [
        _answer(request, self.name, items, scores, self.catalogue)
        for request, items, scores in zip(
          part, ranking.items, ranking.scores, strict=True
        )
      ]
      bar.update(len(part))
    return answers

  def made_by(
    self, origin: dict[str, Any], requests: Sequence[Request], job: Job
  ) -> dict[str, Any]:
    """Everything that decides the answers, for files that hold some."""
    asked = hashlib.sha256()
    for request in requests:
      asked.update(f"{request.user_id}\0{request.items.tolist()}\n".encode())
    return {
      **origin,
      "schema": 1,
      "program": code_digest(_PROGRAMS),
      "requests": asked.hexdigest(),
      "block_users": job.block_users,
      "top_k": self.top_k,
      "candidates": self.candidates,
      "recommender": answers_of(self.recommender),
    }


def _bar(name: str, requests: Sequence[Request]) -> tqdm.tqdm:
  return tqdm.tqdm(total=len(requests), desc=name, unit="user")


def _write_all(
  answering: _Answering,
  requests: list[Request],
  path: pathlib.Path,
  origin: dict[str, Any],
  share: Share,
) -> None:
  """Answers block by block, and joins the blocks when all are there."""
  job = Job()
  blocks = job.blocks(len(requests))
  folder = path.with_name(f".{path.name}.parts")
  parts = Parts(
    folder, answering.made_by(origin, requests, job), blocks, path.suffix
  )
  path.parent.mkdir(parents=True, exist_ok=True)
  missing = parts.missing()
  if len(missing) < len(blocks):
    print(f"{len(blocks) - len(missing)} of {len(blocks)} blocks done before")
  for line in parts.changes():
    print(line)
  with _bar(answering.name, requests) as bar:
    while missing := parts.missing():
      lacking = [blocks[block].stop - blocks[block].start for block in missing]
      bar.n = len(requests) - sum(lacking)
      bar.refresh()
      block = share.choose(missing)
      answers = answering.answers(requests[blocks[block]], bar)
      parts.write(
        block,
        lambda part, answers=answers: output.writer_of(path)(answers, part),
      )
  if share.index:
    print(
      f"every block is done; process 0 of {share.count} writes {path}. If it "
      "has ended, run it again: it has nothing left to answer."
    )
    return
  files = [parts.path(block) for block in range(len(blocks))]
  with atomic.replacing(path) as whole:
    output.joiner_of(path)(files, str(whole))
  print(f"{len(requests):,} users answered: {path}")
  if share.count == 1:
    shutil.rmtree(folder)
  else:
    print(f"When all processes have ended, {folder} can go.")


def _choose(caches: list[TokenCache], name: str | None) -> TokenCache:
  known = {cache.name: cache for cache in caches}
  if name is None and len(caches) == 1:
    return caches[0]
  if name not in known:
    raise InputError(
      f"--domain={name}: choose from {', '.join(known)}."
      f"{config.nearest(name or '', known)}"
    )
  return known[name]


def _requests(
  arguments: argparse.Namespace, cache: TokenCache
) -> list[Request]:
  if arguments.histories:
    return read_histories(
      pathlib.Path(arguments.histories), cache, arguments.skip_unknown
    )
  count = cache.num_documents(_KNOWN)
  known = {
    document.user_id: document.items
    for document in cache.documents(_KNOWN, np.arange(count))
  }
  for user in arguments.user or ():
    if user not in known:
      raise InputError(
        f"--user={user}: {cache.name} has no such user."
        f"{config.nearest(user, known)}"
      )
  return [Request(user, known[user]) for user in arguments.user or known]


def _answer(
  request: Request,
  recommender: str,
  items: np.ndarray,
  scores: np.ndarray,
  catalogue: Catalogue,
) -> dict[str, Any]:
  return {
    "user_id": request.user_id,
    "recommender": recommender,
    "items": [
      {
        "item_id": catalogue.item_ids[row],
        "score": float(score),
        "text": catalogue.texts[row],
      }
      for row, score in zip(items, scores, strict=True)
      if row >= 0
    ],
  }


def _show(line: dict[str, Any]) -> None:
  print(f"user {line['user_id']}, by {line['recommender']}")
  for rank, item in enumerate(line["items"], start=1):
    print(f"  {rank:>2}  {item['score']:.4f}  {item['text']}")
