"""The inference job: recommendations for requests, in memory or as a file.

A file is written block by block, so that a killed job resumes and several
processes can divide the work; see `storage.blocks`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import tqdm

from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.feed.feed import Feed
from calrec_jax.data.records import Catalogue
from calrec_jax.errors import InputError, nearest
from calrec_jax.models.families import ModelConfig
from calrec_jax.recommend import output, provenance, registry, requests
from calrec_jax.recommend.prompts import prompt_limits
from calrec_jax.recommend.protocol import Recommender
from calrec_jax.recommend.requests import KNOWN, Request
from calrec_jax.recommend.trained_model import open_model
from calrec_jax.storage import atomic
from calrec_jax.storage.blocks import BlockStore, Job, Shard

VERSION = 1  # Raise it when the same lists give other answers.
_BATCH_USERS = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inference:
  """One inference job.

  Attributes:
    recommender: Name out of `registry.RECOMMENDERS`.
    top_k: Number of recommendations per user.
    rule: Candidate rule, see `candidates.RULES`.
    users: Ids of users of the log; None for all, unless histories are given.
    histories: File of JSON lines with new histories, or None.
    skip_unknown: Whether items outside the catalogue are skipped.
    domain: Name of the domain; None where the stage has only one.
    checkpoint: Folder of a checkpoint or stage; None for the stage itself.
    output: A .jsonl or .parquet file; None returns the answers.
    shard: This process among those that write the file.
  """

  recommender: str = "fused"
  top_k: int = 10
  rule: str = "not_last"
  users: Sequence[str] | None = None
  histories: str | None = None
  skip_unknown: bool = False
  domain: str | None = None
  checkpoint: str | None = None
  output: str | None = None
  shard: Shard = dataclasses.field(default_factory=Shard)

  def __post_init__(self):
    if self.output:
      output.check_suffix(self.output)  # A wrong one fails before the work.


def run(
  job: Inference,
  *,
  caches: Sequence[TokenCache],
  decoder: ModelConfig,
  folder: pathlib.Path,
  feed: Feed,
  mesh: jax.sharding.Mesh,
) -> list[dict[str, Any]]:
  """Answers the requests of a job.

  Args:
    job: What is requested.
    caches: Token caches of the stage's domains.
    decoder: Shape of the stage's model.
    folder: Folder of the stage.
    feed: What the stage was trained on, which limits the prompts.
    mesh: Devices of this process.

  Returns:
    The answers, see `output`; none where they were written to a file.
  """
  cache = _domain(caches, job.domain)
  if job.histories:
    requested = requests.read_histories(
      pathlib.Path(job.histories), cache, job.skip_unknown
    )
  else:
    requested = requests.of_log(cache, job.users)
  model = None
  if registry.needs_model([job.recommender]):
    model = open_model(job.checkpoint or folder, caches[0], decoder, mesh)
  limits = prompt_limits(feed)
  factory = registry.RecommenderFactory(
    cache, model, limits, mesh, counted=KNOWN, shard=job.shard
  )
  [recommender] = factory.make([job.recommender])
  if job.output is None:
    with _bar(recommender, requested) as bar:
      return _answers(job, recommender, cache.catalogue, requested, bar)
  origin = {
    "counted": KNOWN,
    **provenance.of_answers(cache, model, limits, mesh),
  }
  _write(job, recommender, cache.catalogue, requested, origin)
  return []


def _answers(
  job: Inference,
  recommender: Recommender,
  catalogue: Catalogue,
  requested: Sequence[Request],
  bar: tqdm.tqdm,
) -> list[dict[str, Any]]:
  """An answer for each request, in their order."""
  answers = []
  for start in range(0, len(requested), _BATCH_USERS):
    part = requested[start : start + _BATCH_USERS]
    ranking = recommender.recommend(
      [request.items for request in part], depth=job.top_k, rules=(job.rule,)
    )[job.rule]
    for request, rows, scores in zip(
      part, ranking.items, ranking.scores, strict=True
    ):
      items = [
        {
          "item_id": catalogue.item_ids[row],
          "score": float(score),
          "text": catalogue.texts[row],
        }
        for row, score in zip(rows, scores, strict=True)
        if row >= 0
      ]
      named = {"user_id": request.user_id, "recommender": recommender.name}
      answers.append({**named, "items": items})
    bar.update(len(part))
  return answers


def _write(
  job: Inference,
  recommender: Recommender,
  catalogue: Catalogue,
  requested: Sequence[Request],
  origin: dict[str, Any],
) -> None:
  """Answers block by block, and joins the blocks when all are there."""
  path = pathlib.Path(str(job.output))
  blocks = Job().blocks(len(requested))
  folder = path.with_name(f".{path.name}.parts")
  store = BlockStore.under(
    folder, _identity(job, recommender, requested, origin), blocks, path.suffix
  )
  path.parent.mkdir(parents=True, exist_ok=True)
  if done := len(blocks) - len(store.missing()):
    print(f"{done} of {len(blocks)} blocks done before")
  for line in store.changes():
    print(line)
  with _bar(recommender, requested) as bar:

    def show(done: int) -> None:
      bar.n = done
      bar.refresh()

    for block in store.unfinished(job.shard, show):
      answers = _answers(
        job, recommender, catalogue, requested[blocks[block]], bar
      )
      write = functools.partial(output.write, answers, suffix=path.suffix)
      store.write(block, write)
  if job.shard.index:
    print(
      f"Every block is done; process 0 of {job.shard.count} writes {path}. If "
      "it has ended, run it again: it has nothing left to answer."
    )
    return
  files = [store.path(block) for block in range(len(blocks))]
  with atomic.replacing(path) as whole:
    output.join(files, str(whole), path.suffix)
  print(f"{len(requested):,} users answered: {path}")
  if job.shard.count == 1:
    shutil.rmtree(folder)
  else:
    print(f"When all processes have ended, {folder} can be removed.")


def _identity(
  job: Inference,
  recommender: Recommender,
  requested: Sequence[Request],
  origin: dict[str, Any],
) -> dict[str, Any]:
  """Everything that decides the saved answers."""
  digest = hashlib.sha256()
  for request in requested:
    digest.update(f"{request.user_id}\0{request.items.tolist()}\n".encode())
  return {
    **origin,
    "answering": VERSION,
    "requests": digest.hexdigest(),
    "block_users": Job().block_users,
    "top_k": job.top_k,
    "candidates": job.rule,
    "recommender": recommender.identity(),
  }


def _bar(recommender: Recommender, requested: Sequence[Request]) -> tqdm.tqdm:
  return tqdm.tqdm(total=len(requested), desc=recommender.name, unit="user")


def _domain(caches: Sequence[TokenCache], name: str | None) -> TokenCache:
  known = {cache.name: cache for cache in caches}
  if name is None and len(caches) == 1:
    return caches[0]
  if name not in known:
    raise InputError(
      f"--domain={name}: choose from {', '.join(known)}."
      f"{nearest(name or '', known)}"
    )
  return known[name]
