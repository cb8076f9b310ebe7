"""`calrec checkpoint`: shows what one holds, compares two, converts models."""

from __future__ import annotations

import json
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from calrec_jax.checkpoint import initial_parameters, store
from calrec_jax.cli import verb
from calrec_jax.runtime import partitioning

_EPILOG = """\
A path is a checkpoint_<step> folder or a stage's folder, which means the
checkpoint that the next stage starts from or, if there is none, the newest.

  calrec checkpoint show runs/quickstart/target
  calrec checkpoint diff runs/quickstart/joint runs/quickstart/target
  calrec checkpoint convert runs/quickstart/target mine --to=huggingface
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the verb on a command line and returns the exit status."""
  argv = list(sys.argv[1:] if argv is None else argv)
  if argv[:1] == ["convert"]:
    from calrec_jax.cli import convert

    return convert.main(argv[1:])
  parser = verb.parser("checkpoint", __doc__, _EPILOG)
  actions = parser.add_subparsers(dest="action", required=True)
  show = actions.add_parser("show", help="tree, shapes, bytes, step, lineage")
  show.add_argument("path")
  show.add_argument(
    "--lineage", action="store_true", help="the whole lineage, cards included"
  )
  diff = actions.add_parser("diff", help="what differs between two")
  diff.add_argument("path")
  diff.add_argument("other")
  diff.add_argument(
    "--shapes", action="store_true", help="compare shapes only, read no array"
  )
  actions.add_parser(
    "convert",
    help="to and from Hugging Face folders, GGUF files, t5x checkpoints",
  )
  for action in (show, diff):
    action.add_argument(
      "--dry_run", action="store_true", help="only print the paths"
    )
  arguments = parser.parse_args(argv)
  found = [store.find(arguments.path)]
  if arguments.action == "diff":
    found.append(store.find(arguments.other))
  if arguments.dry_run:
    print("\n".join(map(str, found)))
    return 0
  if arguments.action == "show":
    print(describe(found[0], arguments.lineage))
    return 0
  differences = compare(*found, read=not arguments.shapes)
  print("\n".join(differences) if differences else "the checkpoints are equal")
  return 1 if differences else 0


def describe(checkpoint: pathlib.Path, whole_lineage: bool = False) -> str:
  """The tree with shapes, dtypes, shardings and bytes; step and lineage."""
  arrays = store.metadata(checkpoint)
  rows = [("array", "shape", "dtype", "saved as", "bytes")]
  totals: dict[str, list[int]] = {}
  for path, leaf in arrays.items():
    size = math.prod(leaf.shape)
    nbytes = size * np.dtype(leaf.dtype).itemsize
    total = totals.setdefault(path.split("/")[0], [0, 0])
    total[0] += size
    total[1] += nbytes
    rows.append(
      (
        path,
        "×".join(map(str, leaf.shape)) or "scalar",
        str(np.dtype(leaf.dtype)),
        _sharding(leaf),
        f"{nbytes:,}",
      )
    )
  lines = partitioning.aligned(rows) + [
    f"{name}: {size:,} elements, {nbytes:,} bytes"
    for name, (size, nbytes) in totals.items()
  ]
  if whole_lineage:
    record = store.read_json(checkpoint, "lineage")
    origin = [json.dumps(record, indent=2, ensure_ascii=False)]
  else:
    origin = _origin(checkpoint)
  return "\n".join([str(checkpoint), *lines, "", *origin])


def compare(
  first: pathlib.Path, second: pathlib.Path, read: bool = True
) -> list[str]:
  """Differences of two checkpoints, one per line: arrays, then lineage.

  Args:
    first: `checkpoint_<step>` folder.
    second: Other `checkpoint_<step>` folder.
    read: Whether arrays of the same shape are compared by value.
  """
  old, new = map(store.metadata, (first, second))
  lines = [f"- {path}" for path in sorted(old.keys() - new.keys())]
  lines += [f"+ {path}" for path in sorted(new.keys() - old.keys())]
  values = [store.read_arrays(path) for path in (first, second) if read]
  for path in sorted(old.keys() & new.keys()):
    before, after = old[path], new[path]
    if (before.shape, before.dtype) != (after.shape, after.dtype):
      lines.append(
        f"~ {path}: {before.dtype}{list(before.shape)} -> "
        f"{after.dtype}{list(after.shape)}"
      )
    elif read and not np.array_equal(values[0][path], values[1][path]):
      a, b = (np.asarray(value[path], np.float64) for value in values)
      lines.append(
        f"~ {path}: largest change {np.abs(a - b).max():.3g}, "
        f"relative {np.linalg.norm(a - b) / (np.linalg.norm(a) + 1e-30):.3g}"
      )
  before, after = (store.read_json(p, "lineage") for p in (first, second))
  return lines + [
    f"~ lineage.{key}: {_short(before.get(key))} -> {_short(after.get(key))}"
    for key in sorted(before.keys() | after.keys())
    if before.get(key) != after.get(key)
  ]


def _sharding(leaf: Any) -> str:
  """The mesh axes an array was saved with, as far as they are recorded."""
  spec = getattr(getattr(leaf, "sharding", None), "partition_spec", None)
  return "–" if spec is None else partitioning.show_spec(spec)


def _origin(checkpoint: pathlib.Path) -> list[str]:
  """Stage, step, parent, vocabulary, data and metrics of a checkpoint."""
  record = store.read_json(checkpoint, "lineage")
  parent = record["parent"] or {}
  origin = "from scratch"
  if "stage" in parent:
    origin = f"{parent['checkpoint']} of stage {parent['stage']}"
  elif parent:
    origin = f"{parent.get('name', parent.get('checkpoint'))}, {parent['kind']}"
  lines = [
    f"stage     {record['stage']}, step {store.step_of(checkpoint)}",
    f"parent    {origin}",
    f"vocabulary {_vocabulary(checkpoint)}",
    f"data      {', '.join(record['data']) or '–'}",
    f"task      {record['training']['task']}",
    f"made with {', '.join(f'{k} {v}' for k, v in record['versions'].items())}",
  ]
  if (checkpoint / "metrics").exists():
    metrics = store.read_json(checkpoint, "metrics")
    shown = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())
    lines += [f"validation {shown}"] if metrics else []
  return lines


def _vocabulary(checkpoint: pathlib.Path) -> str:
  record = initial_parameters.stored_vocabulary(checkpoint)
  if "size" not in record:
    return "not recorded"
  text = f"{record['size']:,} tokens"
  if record.get("source"):
    text += f" of {record['source']}"
  if record.get("kept") is not None:
    text += f", pruned from {record['full_size']:,}"
  return text


def _short(value: Any) -> str:
  text = json.dumps(value, sort_keys=True, ensure_ascii=False)
  return text if len(text) <= 60 else text[:57] + "..."
