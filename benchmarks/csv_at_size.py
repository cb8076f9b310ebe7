r"""From a CSV log to its events and its card, beside Polars reading the file.

    pip install polars
    python -m benchmarks.csv_at_size --folder=csv_at_size --rows=10_000_000 \
      --output=csv_at_size.jsonl

A log of the given size is made up (unix times, some items more frequent), with
each tenth title in quotes if `--titles` is set; ids are whole numbers, or texts
by `--text_ids`. Each side runs in a process of
its own, in turn, `--repeats` times: Polars reads the columns into text,
text and int64 or, with ISO times, parses them; ours reads the events
(`LogFiles.read`), and goes on to the card: sorted, split, checked for leaks,
with a vocabulary.
A row of JSON a side: the least wall and CPU seconds, and the peak of resident
memory.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import processor

_BLOCK_ROWS = 1_000_000
_SIDES = ("polars", "events", "card")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark from the command line."""
  arguments = _parse(argv)
  if arguments.side is not None:
    print(json.dumps(_measure(arguments)))
    return 0
  path = arguments.folder / "log.csv"
  if not path.exists():
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write_log(
      path,
      arguments.rows,
      titles=arguments.titles,
      iso=arguments.iso,
      text_ids=arguments.text_ids,
    )
  rows = []
  for side in _SIDES:
    rows.append(_least(arguments, side))
    print(rows[-1], flush=True)
  base = rows[0]
  for row in rows[1:]:
    wall, cpu = (
      row[name] / base[name] for name in ("wall_seconds", "cpu_seconds")
    )
    print(
      f"{row['side']}: {wall:.2f} times the wall seconds of Polars, {cpu:.2f} "
      "times its CPU seconds"
    )
  if arguments.output is not None:
    with arguments.output.open("a") as file:
      file.writelines(json.dumps(row) + "\n" for row in rows)
  return 0


def write_log(
  path: pathlib.Path,
  count: int,
  *,
  titles: bool,
  iso: bool,
  text_ids: bool,
  seed: int = 0,
) -> None:
  """Writes a log of random purchases, sorted by time.

  Args:
    path: Path of the CSV file.
    count: Number of rows.
    titles: Whether rows have the title of the item, some of them in quotes.
    iso: Whether times are ISO 8601 text instead of unix seconds.
    text_ids: Whether ids have letters instead of being whole numbers.
    seed: Seed of the random numbers.
  """
  random = np.random.default_rng(seed)
  users, items = max(count // 10, 10), max(count // 100, 10)
  times = np.sort(random.integers(1_500_000_000, 1_700_000_000, count))
  header = "user_id,item_id,timestamp" + (",title" if titles else "")
  part = path.with_suffix(".partial")
  with part.open("w", encoding="utf-8") as file:
    file.write(header + "\n")
    for start in range(0, count, _BLOCK_ROWS):
      stop = min(start + _BLOCK_ROWS, count)
      size = stop - start
      who = random.integers(0, users, size)
      what = (items * random.random(size) ** 2).astype(np.int64)
      when: Any = times[start:stop]
      if iso:
        when = np.datetime_as_string(when.astype("datetime64[s]"))
      rows = zip(who.tolist(), what.tolist(), when.tolist(), strict=True)
      if text_ids:
        rows = ((f"user{u:07d}", f"B{i:08d}", t) for u, i, t in rows)
      if titles:
        file.writelines(
          f"{user},{item},{moment},{_title(item)}\n"
          for user, item, moment in rows
        )
      else:
        file.writelines(
          f"{user},{item},{moment}\n" for user, item, moment in rows
        )
  part.replace(path)


def _title(item: int | str) -> str:
  if str(item).endswith("0"):
    return f'"Kettle ""No. {item}"", of steel, 1.5 l"'
  return f"Kettle number {item} of steel"


def _least(arguments: argparse.Namespace, side: str) -> dict[str, Any]:
  """The least of several runs of one side."""
  command = [sys.executable, "-m", "benchmarks.csv_at_size", f"--side={side}"]
  command.append(f"--folder={arguments.folder}")
  command += ["--titles"] if arguments.titles else []
  command += ["--iso"] if arguments.iso else []
  command += ["--text_ids"] if arguments.text_ids else []
  runs = [
    json.loads(
      subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    )
    for _ in range(arguments.repeats)
  ]
  least = {name: min(run[name] for run in runs) for name in runs[0]}
  return {
    "benchmark": "csv_at_size",
    "side": side,
    "rows": arguments.rows,
    "titles": arguments.titles,
    "iso": arguments.iso,
    "text_ids": arguments.text_ids,
    "bytes": (arguments.folder / "log.csv").stat().st_size,
    **least,
    "processor": processor.name(),
    "cores": len(os.sched_getaffinity(0)),
  }


def _measure(arguments: argparse.Namespace) -> dict[str, float]:
  sides: dict[str, Callable[[argparse.Namespace], Callable[[], object]]]
  sides = {"polars": _polars, "events": _events, "card": _card}
  work = sides[arguments.side](arguments)  # Imports are not counted.
  began, before = time.perf_counter(), time.process_time()
  work()
  return {
    "wall_seconds": round(time.perf_counter() - began, 2),
    "cpu_seconds": round(time.process_time() - before, 2),
    "peak_gib": round(
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20), 2
    ),
  }


def _polars(arguments: argparse.Namespace) -> Callable[[], object]:
  import polars  # pyright: ignore[reportMissingImports]

  kinds = {"user_id": polars.String, "item_id": polars.String}
  time_kind = polars.String if arguments.iso else polars.Int64
  columns = [*kinds, "timestamp", *(["title"] if arguments.titles else [])]

  def work() -> object:
    table = polars.read_csv(
      arguments.folder / "log.csv",
      columns=columns,
      schema_overrides=kinds | {"timestamp": time_kind},
    )
    if arguments.iso:
      table = table.with_columns(polars.col("timestamp").str.to_datetime())
    return table

  return work


def _source(arguments: argparse.Namespace) -> Any:
  import pyarrow as pa

  from calrec_jax.data.logs.log_files import LogFiles

  pa.array([])  # PyArrow imports pandas with its first array, if it is there.
  if arguments.titles:
    return LogFiles(interactions=str(arguments.folder / "log.csv"))
  return LogFiles(
    interactions=str(arguments.folder / "log.csv"),
    text_columns={"title": "item_id"},
  )


def _events(arguments: argparse.Namespace) -> Callable[[], object]:
  from calrec_jax.data.logs.problems import Problems

  source = _source(arguments)
  return lambda: source.read(Problems(), ["title"])


def _card(arguments: argparse.Namespace) -> Callable[[], object]:
  import shutil

  from calrec_jax.data import building
  from calrec_jax.data.dataset import Dataset
  from calrec_jax.data.domain.domain import Domain

  data = arguments.folder / "data"
  shutil.rmtree(data, ignore_errors=True)
  domain = Domain(
    name="log", source=_source(arguments), fields=(("Title", "title"),)
  )
  dataset = Dataset(domains=[domain], data_dir=str(data))
  work = building.Building(dataset, progress=False)
  return lambda: work.card(domain)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.csv_at_size",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  parser.add_argument("--rows", type=int, default=10_000_000)
  parser.add_argument("--repeats", type=int, default=2)
  parser.add_argument("--titles", action="store_true")
  parser.add_argument("--iso", action="store_true")
  parser.add_argument("--text_ids", action="store_true")
  parser.add_argument("--output", type=pathlib.Path)
  parser.add_argument("--side", choices=_SIDES, help=argparse.SUPPRESS)
  return parser.parse_args(argv)


if __name__ == "__main__":
  sys.exit(main())
