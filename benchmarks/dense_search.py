"""Nearest-neighbour search in a catalogue: users per second, memory, recall.

    python -m benchmarks.dense_search --output=dense_search.jsonl

For each size of the catalogue random unit vectors are stored as a catalogue's
are (`calrec_jax/recommend/dense/vector_store.py`), read from disk onto the
device and searched for users close to some of them. Three times are measured:
the exact search, the approximate one with its recall (the fraction of the exact
list that it finds), and the matrix product alone, a lower bound of any exact
search. A search returns the top `--depth` items, as in evaluation.

Each size runs in a separate process, for its own peak memory. On a CPU
`jax.lax.approx_max_k` finds everything and gains nothing; it is made for TPUs,
where recall may be below 1: run this there before using it.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.metadata
import json
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from benchmarks.train_step import machine
from calrec_jax.recommend.candidates import EMPTY
from calrec_jax.recommend.dense.topk import VectorIndex
from calrec_jax.recommend.dense.vector_store import CatalogueVectors
from calrec_jax.storage.blocks import Shard

_PACKAGES = ("calrec_jax", "jax", "jaxlib", "numpy")
_BLOCK = 16384  # Vectors per file.
_NOISE = 0.5  # Weight of a user's noise relative to its item; unit vectors.


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark from the command line."""
  arguments = _parse(argv)
  if arguments.one is not None:
    print(json.dumps(measure(arguments, arguments.one)))
    return 0
  given = sys.argv[1:] if argv is None else list(argv)
  for size in arguments.items:
    command = [sys.executable, "-m", "benchmarks.dense_search", *given]
    done = subprocess.run(
      [*command, f"--one={size}"], stdout=subprocess.PIPE, text=True, check=True
    )
    row = json.loads(done.stdout.splitlines()[-1])
    print(describe(row))
    if arguments.output:
      path = pathlib.Path(arguments.output)
      path.parent.mkdir(parents=True, exist_ok=True)
      with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
  return 0


def measure(arguments: argparse.Namespace, size: int) -> dict[str, Any]:
  """The row of one catalogue's size."""
  with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
    vectors = stored_vectors(pathlib.Path(folder), size, arguments.width)
    queries = near(vectors, arguments.users)
    exclusions = np.full((arguments.users, 8), EMPTY, np.int32)
    sizes = np.ones(size, np.int32)
    start = time.perf_counter()
    index = VectorIndex(vectors, sizes, chunk=arguments.chunk)
    jax.block_until_ready(index._vectors)
    loading_seconds = time.perf_counter() - start
    other = copy.copy(index)  # Shares the vectors.
    other.recall_target = arguments.recall_target
    searches: dict[str, Callable[[], Any]] = {
      "exact": lambda: index.search(queries, exclusions, arguments.depth),
      "approximate": lambda: other.search(queries, exclusions, arguments.depth),
      "product": lambda: _products(index._vectors, queries, index.chunk),
    }
    figures = {
      name: timed(search, arguments.repetitions, arguments.users)
      for name, search in searches.items()
    }
    exact, found = (
      np.asarray(searches[name]().indices) for name in ("exact", "approximate")
    )
    figures["approximate"]["recall"] = recall(exact, found)
  return {
    "benchmark": "dense_search",
    "schema": 1,
    "machine": machine(),
    "versions": {
      "python": platform.python_version(),
      **{name: importlib.metadata.version(name) for name in _PACKAGES},
    },
    "items": size,
    "width": arguments.width,
    "users": arguments.users,
    "depth": arguments.depth,
    "chunk": index.chunk,
    "recall_target": arguments.recall_target,
    "vectors_mebibytes": size * arguments.width * 4 / 2**20,
    "loading_seconds": loading_seconds,
    "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    / 2**10,
    **figures,
  }


def stored_vectors(
  folder: pathlib.Path, size: int, width: int
) -> CatalogueVectors:
  """Random unit vectors in files, stored as a catalogue's."""
  vectors = CatalogueVectors(folder, {"random": [size, width]}, size, _BLOCK)

  def draw(block: slice) -> np.ndarray:
    numbers = np.random.default_rng(block.start)
    return _unit(
      numbers.standard_normal((block.stop - block.start, width), np.float32)
    )

  with tqdm.tqdm(total=size, desc=f"{size:,} vectors", unit="vector") as bar:
    vectors.complete(draw, shard=Shard(), together=False, bar=bar)
  return vectors


def near(vectors: CatalogueVectors, users: int) -> jax.Array:
  """Unit vectors of users, each close to one of the items."""
  numbers = np.random.default_rng(1)
  rows = numbers.integers(0, vectors.count, users)
  items = np.concatenate([vectors[row : row + 1] for row in rows.tolist()])
  noise = _unit(numbers.standard_normal(items.shape, np.float32))
  return jnp.asarray(_unit(items + _NOISE * noise))


def timed(
  search: Callable[[], Any], repetitions: int, users: int
) -> dict[str, float]:
  """Median times of a search, after one that compiles."""
  start = time.perf_counter()
  jax.block_until_ready(search())
  first = time.perf_counter() - start
  seconds, cpu_seconds = [], []
  for _ in range(repetitions):
    start, cpu_start = time.perf_counter(), time.process_time()
    jax.block_until_ready(search())
    cpu_seconds.append(time.process_time() - cpu_start)
    seconds.append(time.perf_counter() - start)
  median = float(np.median(seconds))
  return {
    "seconds": median,
    "cpu_seconds": float(np.median(cpu_seconds)),
    "first_seconds": first,
    "users_per_second": users / median,
  }


def recall(exact: np.ndarray, found: np.ndarray) -> float:
  """Fraction of the exact lists, int32[B, K], found in other lists."""
  return float(
    np.mean(
      [np.isin(one, two).mean() for one, two in zip(exact, found, strict=True)]
    )
  )


def describe(row: Mapping[str, Any]) -> str:
  """Human-readable text of a row."""
  lines = [
    f"{row['items']:,} vectors of width {row['width']} "
    f"({row['vectors_mebibytes']:,.0f} MiB), {row['users']} users, "
    f"top {row['depth']}; {row['machine']['device']}, "
    f"{row['machine']['cores']} cores",
    f"read in {row['loading_seconds']:.2f} s; peak memory of the process "
    f"{row['peak_mebibytes']:,.0f} MiB",
    f"{'':<14}{'seconds':>10}{'CPU s':>10}{'users/s':>12}{'recall':>9}",
  ]
  for name in ("exact", "approximate", "product"):
    figures = row[name]
    found = {"exact": "1", "product": ""}.get(name)
    if found is None:
      found = f"{figures['recall']:.4f}"
    lines.append(
      f"{name:<14}{figures['seconds']:>10.3f}{figures['cpu_seconds']:>10.3f}"
      f"{figures['users_per_second']:>12,.0f}{found:>9}"
    )
  return "\n".join(lines) + "\n"


@functools.partial(jax.jit, static_argnames="chunk")
def _products(vectors: jax.Array, queries: jax.Array, chunk: int) -> jax.Array:
  """The largest product of each query, chunk by chunk."""

  def step(best: jax.Array, block: jax.Array) -> tuple[jax.Array, None]:
    scores = jnp.einsum(
      "bd,cd->bc", queries, block, precision=jax.lax.Precision.HIGHEST
    )
    return jnp.maximum(best, scores.max(axis=1)), None

  blocks = vectors.reshape(-1, chunk, vectors.shape[1])
  begin = jnp.full(len(queries), -jnp.inf)
  return jax.lax.scan(step, begin, blocks)[0]


def _unit(vectors: np.ndarray) -> np.ndarray:
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.dense_search",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--items",
    type=int,
    nargs="+",
    default=[10_000, 100_000, 1_000_000],
    help="comma-separated sizes of the catalogue",
  )
  parser.add_argument(
    "--width", type=int, default=256, help="width of the vectors"
  )
  parser.add_argument("--users", type=int, default=64, help="users per search")
  parser.add_argument("--depth", type=int, default=128, help="items per user")
  parser.add_argument(
    "--chunk", type=int, default=8192, help="DenseSearch.chunk"
  )
  parser.add_argument("--recall_target", type=float, default=0.95)
  parser.add_argument("--repetitions", type=int, default=5)
  parser.add_argument("--folder", help="temporary folder of the vectors")
  parser.add_argument("--output", help="file to append a line per size to")
  parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
  return parser.parse_args(argv)


if __name__ == "__main__":
  sys.exit(main())
