r"""Costs of constraining generation to items of the catalogue.

    python -m benchmarks.trie_choices --items=10000,100000,1000000

For catalogues of synthetic texts (`texts_like_titles`): time to build the trie,
its memory, the depth at which texts are determined, and the time of one choice
for all hypotheses of a batch, by sampling and by beam search, at the root, the
widest state, and at states as a walk meets them; compared with unconstrained
sampling from the whole vocabulary (`sampling.sample_token`). The model is not
included.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import train_step
from calrec_jax.recommend.constrain import choices, trie
from calrec_jax.recommend.generate import sampling

_WORDS = 5  # Words of the shortest text.
_END = 2
_FIRST_WORD = 10


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark from the command line."""
  arguments = _parse(argv)
  rows = [_measure(count, arguments) for count in arguments.items]
  row = {
    "benchmark": "trie_choices",
    "schema": 1,
    "machine": train_step.machine(),
    "jax": jax.__version__,
    **{
      name: getattr(arguments, name)
      for name in ("users", "hypotheses", "vocabulary", "tokens", "seed")
    },
    "catalogues": rows,
  }
  if arguments.output:
    path = pathlib.Path(arguments.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")
  print(describe(row))
  return 0


def describe(row: Mapping[str, Any]) -> str:
  """Human-readable text of a row."""
  columns = (
    ("items", "items", ",d"),
    ("states", "states", ",d"),
    ("MB", "megabytes", ".1f"),
    ("build CPU s", "build_cpu_seconds", ".1f"),
    ("decided at", "decided_at", ".1f"),
    ("choices", "choices", ".1f"),
    ("root edges", "root_edges", ",d"),
    ("free ms", "free_ms", ".1f"),
    ("draw ms", "draw_ms", ".1f"),
    ("beam ms", "beam_ms", ".1f"),
    ("root draw", "root_draw_ms", ".1f"),
    ("root beam", "root_beam_ms", ".1f"),
  )
  lines = [
    f"{row['users']} users × {row['hypotheses']} hypotheses, vocabulary of "
    f"{row['vocabulary']:,}, texts of {row['tokens']} tokens on average; "
    f"{row['machine']['processor']}",
    "",
    "".join(f"{title:>12}" for title, _, _ in columns),
  ]
  for found in row["catalogues"]:
    lines.append(
      "".join(f"{format(found[key], form):>12}" for _, key, form in columns)
    )
  return "\n".join(lines)


def texts_like_titles(
  count: int, vocabulary: int, tokens: int, seed: int
) -> trie.Texts:
  """Unique texts of about the given number of tokens.

  The first word is sampled by Zipf's law, each later one from the successors of
  the word before, the first few of them far more often, as in titles of one
  brand or series.
  """
  numbers = np.random.default_rng(seed)
  lengths = _WORDS + numbers.poisson(tokens - _WORDS, count)
  words = vocabulary - _FIRST_WORD
  zipf = 1 / np.arange(1, words + 1)
  word = numbers.choice(words, count, p=zipf / zipf.sum())
  steep = 1 / np.arange(1, 1001) ** 1.5
  rows = np.full((count, lengths.max() + 1), _END, np.int32)
  for place in range(lengths.max()):
    going = place < lengths
    rows[going, place] = word[going] + _FIRST_WORD
    following = numbers.choice(1000, count, p=steep / steep.sum())
    word = (word * 7919 + (following + 1) * 104_729) % words
  rows = np.unique(rows, axis=0)
  ends = np.argmax(rows == _END, axis=1) + 1
  inside = np.arange(rows.shape[1]) < ends[:, None]
  return trie.Texts(rows[inside], np.concatenate([[0], np.cumsum(ends)]))


def _measure(count: int, arguments: argparse.Namespace) -> dict[str, Any]:
  texts = texts_like_titles(
    count, arguments.vocabulary, arguments.tokens, arguments.seed
  )
  began = time.process_time()
  built = trie.build(texts)
  build_seconds = time.process_time() - began
  arrays = built.on_device()
  met, choices_made = _states_of_walks(built, arguments)
  shape = met.shape
  numbers = np.random.default_rng(arguments.seed)
  logits = jnp.asarray(
    numbers.normal(size=(*shape, arguments.vocabulary)), jnp.float32
  )
  uniform = jnp.asarray(numbers.random(shape), jnp.float32)
  max_edges = int(np.diff(built.arrays.starts).max())
  branches = jnp.broadcast_to(jnp.arange(shape[1])[None], shape)
  log_probs = jnp.zeros(shape)
  draw = jax.jit(
    functools.partial(choices.sample, temperature=0.5, max_edges=max_edges)
  )
  best = jax.jit(functools.partial(choices.best, max_edges=max_edges))
  free = jax.jit(sampling.sample_token, static_argnums=3)

  def timed(
    states: np.ndarray, choose: Callable[..., Any], *more: Any
  ) -> float:
    # Every hypothesis of a user is on its own branch, the worst case.
    at_states = jnp.asarray(states)
    return _milliseconds(
      lambda: choose(
        arrays, logits, at_states, branches, at_states >= 0, log_probs, *more
      ),
      arguments.repetitions,
    )

  root = np.zeros(shape, np.int32)
  return {
    "items": len(texts),
    "states": len(built.arrays.depths),
    "megabytes": built.num_bytes / 1e6,
    "build_cpu_seconds": build_seconds,
    "decided_at": float(built.depths.mean()) + 1,
    "choices": choices_made,
    "root_edges": int(built.arrays.starts[1]),
    "max_edges": max_edges,
    "free_ms": _milliseconds(
      lambda: free(logits, uniform, 0.5, arguments.vocabulary),
      arguments.repetitions,
    ),
    "draw_ms": timed(met, draw, uniform),
    "beam_ms": timed(met, best),
    "root_draw_ms": timed(root, draw, uniform),
    "root_beam_ms": timed(root, best),
  }


def _states_of_walks(
  built: trie.Trie, arguments: argparse.Namespace
) -> tuple[np.ndarray, float]:
  """States below the root, as met on the way to random texts."""
  arrays = built.arrays
  parents = np.full(len(arrays.depths), -1)
  owners = np.repeat(np.arange(len(arrays.depths)), np.diff(arrays.starts))
  inner = arrays.edge_targets >= 0
  parents[arrays.edge_targets[inner]] = owners[inner]
  above = np.empty(built.num_texts, np.int64)
  above[-1 - arrays.edge_targets[~inner]] = owners[~inner]
  numbers = np.random.default_rng(arguments.seed)
  met, made = [], 0
  texts = numbers.integers(0, built.num_texts, 4096)
  for text in texts:
    state = above[text]
    while state >= 0:
      made += 1
      if state > 0:
        met.append(state)
      state = parents[state]
  shape = (arguments.users, arguments.hypotheses)
  pool = np.array(met or [0])
  return numbers.choice(pool, shape).astype(np.int32), made / len(texts)


def _milliseconds(run: Callable[[], Any], repetitions: int) -> float:
  jax.block_until_ready(run())
  seconds = []
  for _ in range(repetitions):
    began = time.perf_counter()
    jax.block_until_ready(run())
    seconds.append(time.perf_counter() - began)
  return 1000 * statistics.median(seconds)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.trie_choices",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--items",
    type=lambda text: [int(part) for part in text.split(",")],
    default=[10_000, 100_000, 1_000_000],
    help="comma-separated sizes of the catalogues",
  )
  parser.add_argument("--users", type=int, default=16)
  parser.add_argument(
    "--hypotheses", type=int, default=32, help="hypotheses per user"
  )
  parser.add_argument("--vocabulary", type=int, default=20_000)
  parser.add_argument(
    "--tokens", type=int, default=16, help="mean tokens of a text"
  )
  parser.add_argument("--repetitions", type=int, default=20)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--output", help="file to append a line of JSON to")
  return parser.parse_args(argv)


if __name__ == "__main__":
  sys.exit(main())
