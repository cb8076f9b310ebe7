"""`calrec infer`: recommends items to users of the log, or to new histories."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tqdm

from calrec_jax import config, partitioning, recommenders, stages
from calrec_jax.data.cache import TokenCache
from calrec_jax.data.records import Catalogue
from calrec_jax.eval import load_stage_model
from calrec_jax.evaluate.results import write_atomically
from calrec_jax.recommend.protocol import RULES
from calrec_jax.stages import Stage
from calrec_jax.validation import prompt_limits

_EPILOG = """\
Without --user and --histories every user of the log is answered, from all
that is known of them. A file of histories holds one JSON object a line:

  {"user_id": "anna", "items": ["sku-1", "sku-7"]}       (oldest first)

  calrec infer --gin_file=recipes/quickstart.gin --user=1 --top_k=5
  calrec infer --gin_file=recipes/quickstart.gin \\
    --histories=new.jsonl --output=recommendations.parquet
"""
_BATCH_USERS = 256


class Request(NamedTuple):
  """Who asks, with what history.

  Attributes:
    user_id: of the log or of the file of histories.
    items: int32[n] catalogue rows, oldest first.
  """

  user_id: str
  items: np.ndarray


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
  chain = stages.names()
  name = arguments.stage or chain[-1]
  if name not in chain:
    raise ValueError(
      f"--stage={name}: the recipe chains {', '.join(chain)}."
      f"{config.nearest(name, chain)}"
    )
  with configuration.stage(name), config.explained():
    if arguments.dry_run:
      print(config.text())
      return 0
    answer(arguments, name)
  return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="calrec infer",
    description=__doc__,
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
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
    default="generate",
    help="generate, dense, fused, or a baseline (default: %(default)s)",
  )
  parser.add_argument("--top_k", type=int, default=10, help="items a user")
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
    "--skip_unknown",
    action="store_true",
    help="leave out, and count, items that the catalogue does not hold",
  )
  arguments = config.parse_arguments(parser, argv)
  if arguments.top_k < 1:
    parser.error(f"--top_k={arguments.top_k}: at least 1 item a user.")
  return arguments


def answer(arguments: argparse.Namespace, name: str) -> None:
  """Answers the requests of a command line."""
  stage = Stage()
  if arguments.output:
    _writer_of(arguments.output)  # A wrong suffix is said before the work.
  mesh = partitioning.make_mesh(stage.mesh)
  with partitioning.activate(mesh, partitioning.logical_axis_rules()):
    caches = stages.open_caches(stage)
    cache = _choose(caches, arguments.domain)
    requests = _requests(arguments, cache)
    model = None
    if recommenders.needs_model([arguments.recommender]):
      model = load_stage_model(
        arguments.checkpoint or stages.folder(stage, name), stage, caches, mesh
      )
    limits = prompt_limits(stage.feed)
    workshop = recommenders.Workshop(cache, model, limits, mesh)
    [recommender] = workshop.make([arguments.recommender])
    answers = []
    for start in tqdm.trange(
      0, len(requests), _BATCH_USERS, desc=recommender.name, unit="batch"
    ):
      part = requests[start : start + _BATCH_USERS]
      ranking = recommender.recommend(
        [request.items for request in part],
        depth=arguments.top_k,
        rules=(arguments.candidates,),
      )[arguments.candidates]
      answers += [
        _answer(request, recommender.name, items, scores, cache.catalogue)
        for request, items, scores in zip(
          part, ranking.items, ranking.scores, strict=True
        )
      ]
  if arguments.output:
    path = pathlib.Path(arguments.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda part: _writer_of(path)(answers, part))
    print(f"{len(answers):,} users answered: {path}")
  else:
    for line in answers:
      _show(line)


def _choose(caches: list[TokenCache], name: str | None) -> TokenCache:
  known = {cache.name: cache for cache in caches}
  if name is None and len(caches) == 1:
    return caches[0]
  if name not in known:
    raise ValueError(
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
  # A test document holds all that is known of a user.
  count = cache.num_documents("test")
  known = {
    document.user_id: document.items
    for document in cache.documents("test", np.arange(count))
  }
  for user in arguments.user or ():
    if user not in known:
      raise ValueError(
        f"--user={user}: {cache.name} has no such user."
        f"{config.nearest(user, known)}"
      )
  return [Request(user, known[user]) for user in arguments.user or known]


def read_histories(
  path: pathlib.Path, cache: TokenCache, skip_unknown: bool
) -> list[Request]:
  """Reads histories by item id.

  Args:
    path: JSON lines with `user_id` and `items`.
    cache: of the domain.
    skip_unknown: whether items outside the catalogue are left out.

  Raises:
    ValueError: with file and line of what cannot be used.
  """
  rows, requests, skipped = cache.catalogue.rows, [], 0
  for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
    if not line.strip():
      continue
    try:
      entry = json.loads(line)
      user, items = str(entry["user_id"]), [str(i) for i in entry["items"]]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
      raise ValueError(
        f"{path}:{number}: {error}. A line looks like "
        '{"user_id": "anna", "items": ["id-1", "id-2"]}.'
      ) from error
    unknown = [item for item in items if item not in rows]
    if unknown and not skip_unknown:
      raise ValueError(
        f"{path}:{number}: the catalogue of {cache.name} does not hold "
        f"{unknown[0]!r}. --skip_unknown leaves such items out."
      )
    skipped += len(unknown)
    found = [rows[item] for item in items if item in rows]
    if not found:
      raise ValueError(f"{path}:{number}: user {user!r} has no known item.")
    requests.append(Request(user, np.array(found, np.int32)))
  if skipped:
    print(f"{path}: {skipped:,} unknown items left out", file=sys.stderr)
  if not requests:
    raise ValueError(f"{path} holds no history.")
  return requests


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


def _writer_of(path: str | pathlib.Path) -> Any:
  writers = {".jsonl": _write_jsonl, ".parquet": _write_parquet}
  suffix = pathlib.Path(path).suffix
  if suffix not in writers:
    raise ValueError(f"--output={path}: write to a .jsonl or .parquet file.")
  return writers[suffix]


def _write_jsonl(answers: list[dict[str, Any]], path: str) -> None:
  lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in answers)
  pathlib.Path(path).write_text("".join(lines), "utf-8")


def _write_parquet(answers: list[dict[str, Any]], path: str) -> None:
  rows = [
    {
      "user_id": line["user_id"],
      "recommender": line["recommender"],
      "rank": rank,
      **item,
    }
    for line in answers
    for rank, item in enumerate(line["items"], start=1)
  ]
  schema = pa.schema(
    [
      ("user_id", pa.string()),
      ("recommender", pa.string()),
      ("rank", pa.int32()),
      ("item_id", pa.string()),
      ("score", pa.float32()),
      ("text", pa.string()),
    ]
  )
  pq.write_table(pa.Table.from_pylist(rows, schema), path)


def _show(line: dict[str, Any]) -> None:
  print(f"user {line['user_id']}, by {line['recommender']}")
  for rank, item in enumerate(line["items"], start=1):
    print(f"  {rank:>2}  {item['score']:.4f}  {item['text']}")


if __name__ == "__main__":
  from calrec_jax.__main__ import main as calrec

  sys.exit(calrec(["infer", *sys.argv[1:]]))
