"""`calrec compile`: estimates what a recipe costs on a TPU, without the TPU."""

from __future__ import annotations

import argparse
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import tqdm

# isort: off
from calrec_jax.aot import environment  # noqa: F401 (goes before JAX)

# isort: on
from calrec_jax import config
from calrec_jax.aot import advice, costs, programs, table, topology
from calrec_jax.cli import verb
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.errors import InputError
from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.runtime import partitioning
from calrec_jax.storage import lineage
from calrec_jax.train import stages

_EPILOG = """\
Compiles the training step of every stage and the programs that recommend with
its model: prefilling prompts, generating items, encoding the catalogue. Prints
memory, matrix products, collectives and the bound they set; writes all of it to
compile.json in MODEL_DIR. Needs the TPU compiler, but no TPU:

  pip install 'calrec_jax[tpu]'
  calrec compile --gin_file=recipes/gemma3_270m_beauty.gin \\
    --gin_file=mesh/tpu_v5e_8.gin --topology=v5e:2x4

The vocabulary and the longest item are those of the token caches; if there are
none yet, give their sizes: --vocab_size=262144 --item_tokens=64.
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the verb on a command line and returns the exit status."""
  parser = verb.parser("compile", __doc__, _EPILOG)
  _add_flags(parser)
  arguments = config.parse_arguments(parser, argv)
  configuration = arguments.configuration
  configuration.apply()
  records: dict[str, dict[str, Any]] = {}
  output = arguments.output
  for name in stages.chosen(arguments.stage):
    with configuration.stage(name), config.explained():
      if arguments.dry_run:
        print(f"# Stage {name}\n{config.text()}")
        continue
      stage = stages.Stage()
      output = output or pathlib.Path(stage.model_dir) / "compile.json"
      for record in _compile(stage, name, arguments):
        records.setdefault(record["sha256"], record)  # Stages may share some.
  if arguments.dry_run:
    return 0
  found = list(records.values())
  lineage.write_json(output, {"schema": costs.SCHEMA, "programs": found})
  print(f"{table.render(found)}\n\nnumbers: {output}")
  return 0 if all(record["fits"] for record in found) else 1


def _add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--topology",
    required=True,
    metavar="NAME",
    help="the TPU slice: v5e:4x4, v6e:4x4, v5p:4x4x2, v4:2x2x4",
  )
  parser.add_argument(
    "--slices", type=int, default=1, help="number of TPU slices (default: 1)"
  )
  parser.add_argument(
    "--stage", metavar="NAME", help="only this stage of the chain"
  )
  parser.add_argument(
    "--program",
    action="append",
    metavar="NAME",
    choices=programs.NAMES,
    help=f"only this program (repeatable): {', '.join(programs.NAMES)}",
  )
  parser.add_argument(
    "--vocab_size",
    type=int,
    metavar="N",
    help="number of tokens of the vocabulary",
  )
  parser.add_argument(
    "--item_tokens",
    type=int,
    metavar="N",
    help="number of tokens of the longest item",
  )
  parser.add_argument(
    "--output",
    type=pathlib.Path,
    metavar="FILE",
    help="file of the records (default: MODEL_DIR/compile.json)",
  )
  parser.add_argument(
    "--fresh",
    action="store_true",
    help="compile again even if a record exists",
  )


def _compile(
  stage: stages.Stage, name: str, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
  """Records of a stage's programs."""
  slices = topology.describe(arguments.topology, arguments.slices)
  mesh = partitioning.make_mesh(stage.mesh, slices.devices)
  sizes = _sizes(stage, arguments)
  cached = pathlib.Path(stage.dataset.folder) / "compile_records"
  with partitioning.activate(mesh, partitioning.logical_axis_rules()):
    chosen = [
      program
      for program in programs.of_stage(stage, sizes, mesh)
      if not arguments.program or program.name in arguments.program
    ]
    bar = tqdm.tqdm(chosen, desc=name, unit="program", leave=False)
    for program in bar:
      bar.set_postfix_str(program.name)
      record = costs.measure(
        program, slices, mesh, None if arguments.fresh else cached
      )
      yield record | {
        "stage": name,
        "topology": slices.name,
        "slices": slices.slices,
        "device_kind": slices.device_kind,
        "mesh": dict(mesh.shape),
        "advice": advice.for_record(record, stage, dict(mesh.shape)),
      }


def _sizes(
  stage: stages.Stage, arguments: argparse.Namespace
) -> programs.Sizes:
  """Sizes by the flags, else by the model and the token caches."""
  vocab_size, item_tokens = arguments.vocab_size, arguments.item_tokens
  if vocab_size is None:
    vocab_size = programs.decoder_of(stage).vocab_size
  if vocab_size is None or item_tokens is None:
    caches = _caches(stage)
    if vocab_size is None:
      decoder = stages.decoder_for(stage, caches)
      assert isinstance(decoder, DecoderConfig)
      vocab_size = decoder.vocab_size
    if item_tokens is None:
      item_tokens = max(int(c.catalogue.lengths.max()) for c in caches)
  assert vocab_size is not None
  return programs.Sizes(vocab_size, item_tokens)


def _caches(stage: stages.Stage) -> list[TokenCache]:
  remedy = (
    "Build them with `calrec data cache` and the same gin files and flags, or "
    "give --vocab_size=N and --item_tokens=N."
  )
  try:
    domains = stage.dataset.select(stage.task)
    missing = stage.dataset.missing(stage.task)
    folders = [stage.dataset.cache_dir(domain) for domain in domains]
  except OSError as error:
    raise InputError(
      f"The data of {stage.task}, which determines the number of tokens, is "
      f"missing ({error}). {remedy}"
    ) from error
  if missing:
    names = ", ".join(domain.name for domain in missing)
    raise InputError(f"There is no token cache for {names} yet. {remedy}")
  return [TokenCache.open(os.fspath(folder)) for folder in folders]
