"""`calrec checkpoint convert`: converts models of other formats, and back."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from calrec_jax import config
from calrec_jax.checkpoint import conversion, initial_parameters
from calrec_jax.cli import verb
from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.train import stages
from calrec_jax.weights.packages import PACKAGES

_EPILOG = f"""\
SOURCE is a checkpoint_<step> folder or a stage's, a t5x checkpoint in Orbax's
format, a Hugging Face folder (safetensors), a GGUF file, or a packaged model:
{", ".join(PACKAGES)}.

  calrec checkpoint convert gemma3-270m models/gemma
  calrec checkpoint convert runs/mine/target exported --to=huggingface
  calrec checkpoint convert checkpoint_1000 models/t5x --gin_file=models/my.gin
  calrec checkpoint convert gemma3-270m models/small --prune --dtype=bfloat16 \\
    --gin_file=recipes/gemma3_270m_beauty.gin

Without --to, SOURCE becomes FOLDER/checkpoint_0, from which a stage can start
(INITIAL_CHECKPOINT_PATH takes SOURCE itself as well). LoRA is merged. With
--to=huggingface a pruned vocabulary gets its other rows back from the model it
was pruned from. --prune drops the rows that the gin files' dataset does not
use, for a machine that has the token caches but not the published model.
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the verb on a command line and returns the exit status."""
  parser = verb.parser("checkpoint convert", __doc__, _EPILOG)
  parser.add_argument("source", metavar="SOURCE")
  parser.add_argument(
    "folder", metavar="FOLDER", help="output folder; must not exist"
  )
  parser.add_argument("--to", choices=("orbax", "huggingface"), default="orbax")
  parser.add_argument(
    "--dtype",
    choices=("float32", "bfloat16"),
    default="float32",
    help="dtype of the arrays; a stage reads both (default: %(default)s)",
  )
  parser.add_argument(
    "--prune",
    action="store_true",
    help="a published model: only the vocabulary of the gin files' dataset, "
    "whose token caches are built if they are missing",
  )
  parser.add_argument(
    "--layers",
    type=int,
    metavar="N",
    help="a published model: only its first N layers",
  )
  parser.add_argument(
    "--base",
    metavar="MODEL",
    help="huggingface: the model that a pruned vocabulary was taken from, if "
    "it is not the one that the checkpoint names",
  )
  arguments = config.parse_arguments(parser, argv)
  configuration = arguments.configuration
  shape, cut = None, None
  if arguments.prune:
    if not configuration.files:
      parser.error("--prune needs the recipe: --gin_file=recipes/NAME.gin")
    cut = _cut(configuration, build=not arguments.dry_run)
  elif configuration.files or configuration.bindings:
    configuration.apply()
    shape = DecoderConfig()
  model = conversion.open_model(
    arguments.source, shape, cut=cut, layers=arguments.layers
  )
  if arguments.dry_run:
    print(f"{model.path}: {model.config}")
    return 0
  folder = pathlib.Path(arguments.folder).expanduser().absolute()
  dtype = arguments.dtype
  if arguments.to == "orbax":
    print(conversion.to_checkpoint(model, folder, dtype=dtype))
  else:
    base = arguments.base
    print(conversion.to_huggingface(model, folder, base=base, dtype=dtype))
  return 0


def _cut(configuration: config.Configuration, *, build: bool) -> conversion.Cut:
  """Vocabulary of the recipe's first stage; all stages share its dataset."""
  configuration.apply()
  with configuration.stage(stages.names()[0]), config.explained():
    stage = stages.Stage()
    if not build:
      stage = dataclasses.replace(stage, use_cached=True)
    cache = stages.open_caches(stage)[0]
    record = initial_parameters.vocabulary_record(
      cache, stage.dataset.vocabulary
    )
    return conversion.Cut(cache.vocabulary(), record)
