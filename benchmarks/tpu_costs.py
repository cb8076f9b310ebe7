"""Costs of production recipes on TPU slices, from the TPU compiler.

    python -m benchmarks.tpu_costs --output=tpu_costs.jsonl

Needs no TPU, but its compiler: pip install 'calrec_jax[tpu]'. Compiles the
training step of each of `RECIPES` by `calrec compile`, a few minutes each on
one core, and prints the table of docs/sharding.md. Results are cached for the
same versions.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

_GIB = 2**30
_HEAD = """\
| model | slice | mesh | rows of 2,048 tokens | remat | peak of a chip, GiB | \
free | TFLOP of a chip | links, ms | at least, ms | utilisation at most |
|---|---|---|---|---|---|---|---|---|---|---|"""


class Recipe(NamedTuple):
  """One row of the table.

  Attributes:
    model: File of gin/models.
    topology: Topology for `calrec compile`.
    data: Devices along the mesh axis `data`.
    fsdp: Devices along `fsdp`.
    rows: Rows of the global batch, BATCH_SIZE.
    slices: Number of slices.
    remat: Remat setting of the decoder.
  """

  model: str
  topology: str
  data: int
  fsdp: int
  rows: int
  slices: int = 1
  remat: str = "dots"

  @property
  def name(self) -> str:
    """Human-readable name."""
    several = f"{self.slices} × " if self.slices > 1 else ""
    return f"{self.model} on {several}{self.topology}"

  def flags(self) -> list[str]:
    """Flags of `calrec compile`."""
    return [
      "--gin_file=recipes/gemma3_270m_beauty.gin",
      f"--gin_file=models/{self.model}.gin",
      f"--gin.MeshShape.replica={self.slices}",
      f"--gin.MeshShape.data={self.data}",
      f"--gin.MeshShape.fsdp={self.fsdp}",
      f"--gin.BATCH_SIZE={self.rows}",
      f'--gin.DecoderConfig.remat="{self.remat}"',
      f"--topology={self.topology}",
      f"--slices={self.slices}",
      "--stage=joint",
      "--program=train_step",
      # Of three categories of Amazon's reviews.
      "--vocab_size=19840",
      "--item_tokens=64",
    ]


RECIPES = (
  Recipe("gemma3_270m", "v5e:4x4", data=4, fsdp=4, rows=128),
  Recipe("gemma3_270m", "v5e:8x8", data=8, fsdp=8, rows=512),
  Recipe("gemma3_1b", "v5e:4x4", data=4, fsdp=4, rows=64),
  Recipe("gemma3_1b", "v6e:4x4", data=4, fsdp=4, rows=128),
  Recipe("gemma3_270m", "v5e:4x4", data=4, fsdp=4, rows=256, slices=2),
  Recipe("gemma3_4b", "v5p:2x2x4", data=4, fsdp=4, rows=64),
  Recipe("gemma3_12b", "v5p:2x2x4", data=4, fsdp=4, rows=32),
)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark from the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--recipes",
    help="select recipes by a part of the name, such as 4b or v6e",
    default="",
  )
  parser.add_argument(
    "--output", type=pathlib.Path, help="file to append the rows to"
  )
  arguments = parser.parse_args(argv)
  chosen = [one for one in RECIPES if arguments.recipes in one.name]
  if not chosen:
    parser.error(
      f"--recipes={arguments.recipes} matches none of "
      f"{', '.join(one.name for one in RECIPES)}."
    )
  print(_HEAD)
  for recipe in chosen:
    record = measure(recipe)
    print(row(recipe, record), flush=True)
    if arguments.output:
      entry = {"benchmark": "tpu_costs", "schema": 1, **record}
      with arguments.output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, sort_keys=True) + "\n")
  return 0


def measure(recipe: Recipe) -> dict[str, Any]:
  """The record of `calrec compile` for the training step.

  Raises:
    RuntimeError: If the verb fails, with its output.
  """
  with tempfile.TemporaryDirectory() as folder:
    output = pathlib.Path(folder, "compile.json")
    done = subprocess.run(
      [
        *(sys.executable, "-m", "calrec_jax", "compile", *recipe.flags()),
        f"--output={output}",
      ],
      stderr=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
      text=True,
      check=False,
    )
    if not output.exists():
      raise RuntimeError(done.stderr)
    [record] = json.loads(output.read_text("utf-8"))["programs"]
  return record


def row(recipe: Recipe, record: dict[str, Any]) -> str:
  """A line of the table."""
  peak, available = record["peak_bytes"], record["available_bytes"]
  mesh = " × ".join(
    f"{axis} {size}" for axis, size in record["mesh"].items() if size > 1
  )
  cells = [
    recipe.model,
    f"{recipe.slices} × {recipe.topology}"
    if recipe.slices > 1
    else recipe.topology,
    mesh,
    str(recipe.rows),
    recipe.remat,
    f"{peak / _GIB:.1f} of {available / _GIB:.1f}",
  ]
  if not record["fits"]:
    return f"| {' | '.join(cells)} | does not fit | | | | |"
  cells += [
    f"{1 - peak / available:.0%}",
    f"{record['executed_flops'] / 1e12:.1f}",
    f"{record['link_seconds'] * 1e3:.1f}",
    f"{record['least_seconds'] * 1e3:.0f}",
    f"{record['utilisation_bound']:.0%}",
  ]
  return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
  sys.exit(main())
