"""Matching of generated texts to items: CPU seconds for a thousand users.

    python -m benchmarks.grounding --items FOLDER/items.jsonl.gz

Takes the texts of a catalogue and synthesises a tuned model's output for each
user: items sampled by popularity (Zipf), of which a fraction (`--exact`) is
spelled exactly and the rest continues with another item's text. No model is
run. Then items are ranked under all three candidate rules, as in evaluation:
from the best matches of each text, and, for some of the users, from the scores
of the whole catalogue, which must give the same lists.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import json
import pathlib
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from benchmarks.train_step import machine
from calrec_jax.recommend import candidates, protocol
from calrec_jax.recommend.baselines.bm25 import CatalogueIndex
from calrec_jax.recommend.generate.ground import Grounder
from calrec_jax.recommend.generate.texts import GeneratedText

_PACKAGES = ("calrec_jax", "bm25s", "numpy", "scipy")
_FIELDS = ("title", "category", "brand", "price")
_ZIPF = 0.8
_BATCH_USERS = 128
_HISTORY = 8


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark from the command line."""
  arguments = _parse(argv)
  texts = read_texts(arguments.items)[: arguments.num_items]
  start = time.process_time()
  index = CatalogueIndex(texts)
  index_seconds = time.process_time() - start
  written = write(texts, arguments)
  numbers = np.random.default_rng(1)
  histories = list(numbers.integers(0, len(texts), (arguments.users, _HISTORY)))
  row = {
    "benchmark": "grounding",
    "schema": 1,
    "machine": machine(),
    "versions": {
      "python": platform.python_version(),
      **{name: importlib.metadata.version(name) for name in _PACKAGES},
    },
    "items": len(texts),
    "item_texts": index.num_texts,
    "users": arguments.users,
    "samples": arguments.samples,
    "exact": arguments.exact,
    "texts_of_users": sum(map(len, written)),
    "distinct_texts": len({one.text for user in written for one in user}),
    "depth": arguments.depth,
    "index_cpu_seconds": index_seconds,
    **compare(index, written, histories, arguments),
  }
  print(describe(row))
  if arguments.output:
    path = pathlib.Path(arguments.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")
  return 0


def compare(
  index: CatalogueIndex,
  written: Sequence[Sequence[GeneratedText]],
  histories: Sequence[np.ndarray],
  arguments: argparse.Namespace,
) -> dict[str, float]:
  """Ranks both ways; the lists must be the same.

  Raises:
    AssertionError: If they differ.
  """
  grounder, depth = Grounder(index), arguments.depth
  rankings = []
  start = time.process_time()
  for at in tqdm.trange(0, len(written), _BATCH_USERS, desc="best matches"):
    part = slice(at, at + _BATCH_USERS)
    request = protocol.check_request(
      histories[part], depth, candidates.RULES, len(index)
    )
    found = grounder.rank(written[part], request.reach)
    rankings.append(protocol.cut(found, request))
  seconds = time.process_time() - start
  checked = min(arguments.checked, len(written), _BATCH_USERS)
  plain = Grounder(index)
  start = time.process_time()
  scores = [
    plain.scores(texts)
    for texts in tqdm.tqdm(written[:checked], desc="whole catalogue")
  ]
  request = protocol.check_request(
    histories[:checked], depth, candidates.RULES, len(index)
  )
  full = protocol.cut(protocol.FullScores(np.array(scores)), request)
  plain_seconds = time.process_time() - start
  for rule, ranking in full.items():
    for one, other in zip(rankings[0][rule], ranking, strict=True):
      np.testing.assert_array_equal(one[:checked], other)
  return {
    "cpu_seconds": seconds,
    "users_per_cpu_second": len(written) / seconds,
    "whole_catalogue_users_per_cpu_second": checked / plain_seconds,
  }


def read_texts(paths: Sequence[str]) -> list[str]:
  """Item texts in the framework's format, from files of JSON lines."""
  texts = []
  for path in paths:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
      for line in lines:
        item = json.loads(line)
        texts.append(
          " ".join(
            f"{name.title()}: {item.get(name) or 'Unknown'}."
            for name in _FIELDS
          )
        )
  return texts


def write(
  texts: Sequence[str], arguments: argparse.Namespace
) -> list[list[GeneratedText]]:
  """Unique texts of each user, as a tuned model may generate them."""
  numbers = np.random.default_rng(0)
  order = numbers.permutation(len(texts))
  chances = np.arange(1, len(texts) + 1) ** -_ZIPF
  chances /= chances.sum()
  users = []
  for _ in range(arguments.users):
    found: dict[str, GeneratedText] = {}
    for row in order[numbers.choice(len(texts), arguments.samples, p=chances)]:
      text = texts[row]
      if numbers.random() >= arguments.exact:
        words, other = text.split(), texts[numbers.integers(len(texts))].split()
        cut = numbers.integers(1, len(words))
        text = " ".join(words[:cut] + other[cut:])
      known = found.get(text)
      found[text] = GeneratedText(
        text=text,
        log_prob=known.log_prob if known else -float(numbers.gamma(4.0, 4.0)),
        samples=known.samples + 1 if known else 1,
        tokens=len(text.split()) + 1,
        ended=True,
      )
    users.append(list(found.values()))
  return users


def describe(row: Mapping[str, Any]) -> str:
  """Human-readable text of a row."""
  return (
    f"{row['users']:,} users with {row['samples']} samples each, "
    f"{row['texts_of_users']:,} texts of which {row['distinct_texts']:,} are "
    f"distinct, against {row['items']:,} items ({row['item_texts']:,} texts), "
    f"top {row['depth']} under three rules\n"
    f"index: {row['index_cpu_seconds']:.2f} CPU s; ranking: "
    f"{row['cpu_seconds']:.2f} CPU s, {row['users_per_cpu_second']:,.0f} users "
    "per CPU second; from the scores of the whole catalogue "
    f"{row['whole_catalogue_users_per_cpu_second']:,.0f}, with the same lists"
  )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.grounding",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--items",
    nargs="+",
    required=True,
    help="files of items as JSON lines (gin/data/folders.gin)",
  )
  parser.add_argument("--num_items", type=int, default=20_000)
  parser.add_argument("--users", type=int, default=1000)
  parser.add_argument(
    "--samples", type=int, default=32, help="samples per user"
  )
  parser.add_argument(
    "--exact", type=float, default=0.8, help="fraction that spells an item"
  )
  parser.add_argument("--depth", type=int, default=100, help="items per user")
  parser.add_argument(
    "--checked", type=int, default=64, help="users ranked both ways"
  )
  parser.add_argument("--output", help="file to append a line of JSON to")
  return parser.parse_args(argv)


if __name__ == "__main__":
  sys.exit(main())
