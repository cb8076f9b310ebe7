r"""From raw files to the token cache: time and memory by size of the data.

    python -m benchmarks.data_at_size --folder=at_size \
      --reviews=1_000_000,10_000_000 --output=data_at_size.jsonl

For each size files in the format of Amazon Reviews 2018 are made up
(`benchmarks/amazon_files.py`; 2 GB for ten million reviews, which are removed
in the end) and built in a process of its own, as `calrec data cache` does it,
with `--tfds` also as `calrec data build` does.
A row of JSON a size: wall and CPU seconds of each step, child processes
included, and the peak of resident memory within it, of the process alone and of
it and all its children together. The last row says how much longer the largest
took than the smallest.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import amazon_files, processor

_PACKAGES = ("calrec_jax", "numpy", "pyarrow", "sentencepiece")
_PERIOD_SECONDS = 0.25
_GIB = 1 << 30


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark from the command line."""
  arguments = _parse(argv)
  if arguments.one is not None:
    print(json.dumps(_build(arguments)))
    return 0
  rows = []
  for reviews in arguments.reviews:
    rows.append(measure(arguments, reviews))
    print(_text(rows[-1]), flush=True)
  if len(rows) > 1:
    rows.append(growth(rows[0], rows[-1]))
    print(rows[-1])
  if arguments.output is not None:
    with arguments.output.open("a") as file:
      file.writelines(json.dumps(row) + "\n" for row in rows)
  return 0


def measure(arguments: argparse.Namespace, reviews: int) -> dict[str, Any]:
  """Writes and builds files of one size, and measures it."""
  folder = arguments.folder / f"{reviews}"
  raw, data = folder / "raw", folder / "data"
  size = amazon_files.Size.of(reviews, arguments.seed)
  if not (raw / "complete").exists():
    raw.mkdir(parents=True, exist_ok=True)
    amazon_files.write(raw, size, processes=os.cpu_count() or 1)
    (raw / "complete").touch()
  shutil.rmtree(data, ignore_errors=True)
  command = [sys.executable, "-m", "benchmarks.data_at_size"]
  options = [f"--folder={folder}", f"--one={reviews}"]
  options.append(f"--vocabulary={arguments.vocabulary}")
  options += ["--tfds"] if arguments.tfds else []
  row = {
    "benchmark": "data_at_size",
    "reviews": reviews,
    "users": size.users,
    "items": size.items,
    "raw_bytes": sum(path.stat().st_size for path in raw.iterdir()),
  }
  with subprocess.Popen(
    [*command, *options], stdout=subprocess.PIPE, text=True
  ) as process:
    samples: list[tuple[float, int, int]] = []
    watch = threading.Thread(target=_watch, args=(process.pid, samples))
    watch.start()
    output = process.communicate()[0]
    watch.join()
  if process.returncode:
    raise RuntimeError(f"Building {reviews:,} reviews failed; see above.")
  row |= json.loads(output.splitlines()[-1])
  for step in row["steps"]:
    began, ended = step.pop("began"), step.pop("ended")
    within = [sample for sample in samples if began <= sample[0] <= ended]
    step["peak_rss_gib"] = _gib(max((s[1] for s in within), default=0))
    step["peak_all_gib"] = _gib(max((s[2] for s in within), default=0))
  row["built_bytes"] = _bytes(data)
  row["machine"] = {"cores": os.cpu_count(), "processor": processor.name()}
  row["versions"] = {
    "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in _PACKAGES},
  }
  if not arguments.keep:
    shutil.rmtree(folder)
  return row


def growth(small: dict[str, Any], large: dict[str, Any]) -> dict[str, Any]:
  """Ratios of the larger to the smaller size; linear growth is `reviews`."""

  def ratio(values: Sequence[float]) -> float:
    return round(values[1] / values[0], 2)

  return {
    "benchmark": "data_at_size_growth",
    "reviews": ratio([row["reviews"] for row in (small, large)]),
    **{
      name: ratio(
        [sum(step[name] for step in row["steps"]) for row in (small, large)]
      )
      for name in ("wall_seconds", "cpu_seconds")
    },
    "peak_all": ratio(
      [
        max(step["peak_all_gib"] for step in row["steps"])
        for row in (small, large)
      ]
    ),
  }


class _Steps(logging.Handler):
  """Records the end of each step of a build, from its log messages."""

  def __init__(self) -> None:
    super().__init__(logging.INFO)
    self.steps: list[dict[str, Any]] = []
    self._began, self._cpu = time.time(), _cpu_seconds()

  def emit(self, record: logging.LogRecord) -> None:
    """Ends the step named in the message, before its seconds."""
    name, found, _ = record.getMessage().rpartition(" (")
    if found and "\n" not in name:
      self.end(name.rpartition(": ")[2])

  def end(self, name: str) -> None:
    """Ends a step."""
    now, cpu = time.time(), _cpu_seconds()
    self.steps.append(
      {
        "step": name,
        "wall_seconds": round(now - self._began, 1),
        "cpu_seconds": round(cpu - self._cpu, 1),
        "began": self._began,
        "ended": now,
      }
    )
    self._began, self._cpu = now, cpu


def _build(arguments: argparse.Namespace) -> dict[str, Any]:
  """Builds the files of one size, in a separate process."""
  steps = _Steps()
  logging.basicConfig(level=logging.INFO, handlers=[steps])
  from calrec_jax.data import building
  from calrec_jax.data import dataset as dataset_lib
  from calrec_jax.data.domain import domain as domain_lib
  from calrec_jax.data.vocabulary import trained as vocabulary_lib
  from calrec_tasks import amazon

  domain = domain_lib.Domain(
    name="made_up",
    source=amazon.AmazonReviews(
      release="amazon2018",
      category=amazon_files.CATEGORY,
      manual_dir=str(arguments.folder / "raw"),
      core=False,
    ),
  )
  dataset = dataset_lib.Dataset(
    domains=[domain],
    vocabulary=vocabulary_lib.TrainedSentencePiece(size=arguments.vocabulary),
    data_dir=str(arguments.folder / "data"),
  )
  dataset.cache_dir(domain)
  steps.end("hash the files")
  built = building.build(dataset, domain.name, progress=False)
  folder = pathlib.Path(built[domain.name])
  if arguments.tfds:
    from calrec_jax.data.seqio.building import build_tfds

    steps.end("import TensorFlow")
    build_tfds(dataset, domain.name, progress=False)
  card = json.loads((folder / "card.json").read_text("utf-8"))
  k_core = next(step for step in card["steps"] if step["step"] == "k-core")
  return {
    "steps": steps.steps,
    "k_core": {name: k_core[name] for name in ("users", "items", "events")},
    "tokens_per_item": card["tokens_per_item"]["mean"],
    "problems": {row["kind"]: row["count"] for row in card["problems"]},
  }


def _watch(pid: int, samples: list[tuple[float, int, int]]) -> None:
  """Records the memory of a process and its children until it ends."""
  while sizes := [_resident(one) for one in _family(pid)]:
    if not sizes[0]:
      return  # It has ended and is not yet reaped.
    samples.append((time.time(), sizes[0], sum(sizes)))
    time.sleep(_PERIOD_SECONDS)


def _family(pid: int) -> list[int]:
  """A process and its descendants."""
  parents = {}
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      fields = path.read_text().rpartition(")")[2].split()
    except OSError:
      continue  # It has just ended.
    parents[int(path.parent.name)] = int(fields[1])
  family = [pid]
  for one in family:
    family += [child for child, parent in parents.items() if parent == one]
  return family


def _resident(pid: int) -> int:
  """Resident bytes of a process; 0 if it has ended."""
  try:
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
  except OSError:
    return 0
  return pages * os.sysconf("SC_PAGESIZE")


def _cpu_seconds() -> float:
  times = os.times()
  return times.user + times.system + times.children_user + times.children_system


def _bytes(folder: pathlib.Path) -> dict[str, int]:
  """Bytes of the built folders."""
  return {
    part.name: sum(p.stat().st_size for p in part.rglob("*") if p.is_file())
    for part in sorted(folder.iterdir())
    if part.is_dir() and not part.name.startswith(".")
  }


def _gib(size: int) -> float:
  return round(size / _GIB, 2)


def _text(row: dict[str, Any]) -> str:
  lines = [
    f"{row['reviews']:,} reviews, {row['raw_bytes'] / 1e9:.2f} GB; after the "
    f"k-core {row['k_core']}"
  ]
  for step in row["steps"]:
    lines.append(
      f"  {step['step']:<22}{step['wall_seconds']:>8.1f} s wall"
      f"{step['cpu_seconds']:>8.1f} s CPU{step['peak_rss_gib']:>7.2f} GiB alone"
      f"{step['peak_all_gib']:>7.2f} GiB with children"
    )
  wall, cpu = (
    sum(step[name] for step in row["steps"])
    for name in ("wall_seconds", "cpu_seconds")
  )
  lines.append(f"  {'all':<22}{wall:>8.1f} s wall{cpu:>8.1f} s CPU")
  return "\n".join(lines)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  parser.add_argument(
    "--reviews",
    type=lambda text: [int(part) for part in text.split(",")],
    default=[100_000, 1_000_000],
    help="comma-separated sizes in ascending order",
  )
  parser.add_argument("--vocabulary", type=int, default=32_000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--output", type=pathlib.Path)
  parser.add_argument("--keep", action="store_true", help="keep the files")
  parser.add_argument(
    "--tfds", action="store_true", help="write the TFDS dataset, too"
  )
  parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
  return parser.parse_args(argv)


if __name__ == "__main__":
  sys.exit(main())
