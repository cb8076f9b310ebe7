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
import sys
from collections.abc import Sequence
from typing import Any

import jax
import tqdm

from calrec_jax.data import building
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.dataset import Dataset
from calrec_jax.data.domain.domain import slug
from calrec_jax.data.feed.feed import Feed
from calrec_jax.data.feed.tokenization import PromptTooLong
from calrec_jax.data.records import Catalogue
from calrec_jax.errors import InputError, nearest
from calrec_jax.models.families import ModelConfig
from calrec_jax.recommend import (
  histories,
  output,
  provenance,
  registry,
  requests,
)
from calrec_jax.recommend.prompts import prompt_limits
from calrec_jax.recommend.protocol import Recommender
from calrec_jax.recommend.requests import KNOWN, Request
from calrec_jax.recommend.trained_model import open_model
from calrec_jax.storage import atomic
from calrec_jax.storage.blocks import BlockStore, Job, Shard

VERSION = 2  # Raise it when the same lists give other answers.
_BATCH_USERS = 256
_FALLBACK = "popularity"  # Answers users of whom no known purchase is there.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inference:
  """One inference job.

  Attributes:
    recommender: Name out of `registry.RECOMMENDERS`.
    top_k: Number of recommendations per user.
    rule: Candidate rule, see `candidates.RULES`.
    users: Ids of users of the log; None for all, unless histories are given.
    histories: File of new histories, see `histories.read`, or None.
    skip_unknown: Whether items outside the catalogue are skipped without a
      reason in the answer.
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
  dataset: Dataset,
  caches: Sequence[TokenCache],
  decoder: ModelConfig,
  folder: pathlib.Path,
  feed: Feed,
  mesh: jax.sharding.Mesh,
) -> list[dict[str, Any]]:
  """Answers the requests of a job.

  Args:
    job: What is requested.
    dataset: Dataset of the stage, whose log is read again where a cache lacks
      everybody's events.
    caches: Token caches of the stage's domains.
    decoder: Shape of the stage's model.
    folder: Folder of the stage.
    feed: What the stage was trained on, which limits the prompts.
    mesh: Devices of this process.

  Returns:
    The answers, see `output`; none where they were written to a file.
  """
  cache = _domain(caches, job.domain)
  building.attach_everybody(dataset, cache)
  everybody = cache.everybody
  assert everybody is not None
  if job.histories:
    [domain] = dataset.select(cache.name)
    requested = histories.read(
      pathlib.Path(job.histories),
      cache,
      job.skip_unknown,
      histories.Columns.of_source(domain.source),
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
  recommender, popularity = factory.make([job.recommender, _FALLBACK])
  answering = _Answering(job, recommender, popularity, cache.catalogue)
  if job.output is None:
    with _bar(recommender, requested) as bar:
      answers = answering.answers(requested, bar)
    _say_reasons(answering, requested)
    return answers
  origin = {
    "counted": KNOWN,
    "everybody": everybody.sha256,
    **provenance.of_answers(cache, model, limits, mesh),
  }
  _write(answering, requested, origin)
  _say_reasons(answering, requested)
  return []


def _say_reasons(answering: _Answering, requested: Sequence[Request]) -> None:
  """Counts the answers that say why they are not ordinary ones."""
  reasons = [request.reason for request in requested if request.reason]
  if said := requests.summary([*reasons, *answering.reasons], len(requested)):
    print(said, file=sys.stderr)


class _Answering:
  """Answers everybody: those without a history by popularity.

  Attributes:
    job: What is requested.
    recommender: Recommender of those with a history.
    reasons: Reasons that the work itself found, not the requests.
  """

  def __init__(
    self,
    job: Inference,
    recommender: Recommender,
    fallback: Recommender,
    catalogue: Catalogue,
  ):
    self.job, self.recommender = job, recommender
    self.reasons: list[str] = []
    self._fallback, self._catalogue = fallback, catalogue
    if recommender.answers_empty:
      self._fallback = recommender

  def answers(
    self, requested: Sequence[Request], bar: tqdm.tqdm
  ) -> list[dict[str, Any]]:
    """An answer for each request, in their order."""
    found: dict[int, dict[str, Any]] = {}
    for recommender, rows in (
      (self.recommender, [n for n, r in enumerate(requested) if len(r.items)]),
      (
        self._fallback,
        [n for n, r in enumerate(requested) if not len(r.items)],
      ),
    ):
      for start in range(0, len(rows), _BATCH_USERS):
        part = rows[start : start + _BATCH_USERS]
        listed = self._listed(recommender, [requested[row] for row in part])
        found.update(zip(part, listed, strict=True))
        bar.update(len(part))
    return [found[row] for row in range(len(requested))]

  def _listed(
    self, recommender: Recommender, part: Sequence[Request]
  ) -> list[dict[str, Any]]:
    """The answers of one call, without those whose prompt is too long."""
    try:
      return self._ranked(recommender, part)
    except InputError as error:
      if not isinstance(error.__cause__, PromptTooLong):
        raise
      if len(part) > 1:
        return [self._listed(recommender, [one])[0] for one in part]
      reason = f"prompt too long: {error}"
      self.reasons.append(reason)
      return self._ranked(
        self._fallback, [requests.nobody(part[0].user_id, reason)]
      )

  def _ranked(
    self, recommender: Recommender, part: Sequence[Request]
  ) -> list[dict[str, Any]]:
    rule, catalogue = self.job.rule, self._catalogue
    ranking = recommender.recommend(
      [request.items for request in part],
      depth=self.job.top_k,
      rules=(rule,),
    )[rule]
    answers = []
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
      reason = request.reason
      if not items and reason is None:
        reason = f"no candidate: the rule {rule!r} leaves none"
        self.reasons.append(reason)
      answers.append(
        {
          "user_id": request.user_id,
          "recommender": recommender.name,
          "reason": reason,
          "items": items,
        }
      )
    return answers


def _write(
  answering: _Answering,
  requested: Sequence[Request],
  origin: dict[str, Any],
) -> None:
  """Answers block by block, and joins the blocks when all are there."""
  job, recommender = answering.job, answering.recommender
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
      answers = answering.answers(requested[blocks[block]], bar)
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
    kinds = getattr(request.items, "kinds", None)
    said = [request.user_id, request.items.tolist(), request.reason]
    said.append(None if kinds is None else kinds.tolist())
    digest.update(f"{said}\n".encode())
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
  if name is None:
    raise InputError(
      f"The stage has several domains; choose one by --domain: "
      f"{', '.join(known)}."
    )
  found = known.get(name) or known.get(slug(name))  # Or its folder's name.
  if found is None:
    raise InputError(
      f"--domain={name}: choose from {', '.join(known)}.{nearest(name, known)}"
    )
  return found
