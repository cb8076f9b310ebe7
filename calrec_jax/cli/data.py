"""`calrec data`: builds, caches and describes datasets."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from calrec_jax import config
from calrec_jax.cli import named_datasets, verb
from calrec_jax.data import building
from calrec_jax.data import dataset as dataset_lib
from calrec_jax.data.cache import token_cache
from calrec_jax.data.domain import card as card_lib
from calrec_jax.data.domain import splits
from calrec_jax.data.feed import tokenization
from calrec_jax.data.logs import progress
from calrec_jax.errors import InputError

NAME_MACRO = "MIXTURE_OR_TASK_NAME"

_EPILOG = """\
cache   reads and checks the logs, writes the token caches that training reads
card    prints what a dataset holds and what is wrong with it
show    prints one user's prompt as text, and the item that followed
build   writes TFDS datasets, for trainers that read SeqIO tasks

Whatever an action needs and is missing is built first. With
MIXTURE_OR_TASK_NAME = "all" it is done for every domain.

A known dataset needs no gin file:

  calrec data card amazon2018/Video_Games --manual_dir=downloads
  calrec data card completejourney/nutrition
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the verb.

  Args:
    argv: Arguments of the command line, without the program's name.

  Returns:
    The exit status.
  """
  arguments = _parse(argv)
  configuration = named_datasets.configure(
    arguments.configuration, arguments.datasets, arguments.manual_dir
  )
  configuration = dataclasses.replace(
    configuration, macros=(*configuration.macros, NAME_MACRO)
  )
  configuration.apply()
  if arguments.dry_run:
    print(config.text())
    return 0
  with config.explained():
    dataset = dataset_lib.Dataset()
  with progress.hidden(arguments.quiet):
    _ACTIONS[arguments.action](dataset, _names(dataset), arguments)
  return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = verb.parser("data", __doc__, _EPILOG)
  parser.add_argument("action", choices=tuple(_ACTIONS))
  parser.add_argument(
    "datasets",
    nargs="*",
    metavar="DATASET",
    help=f"such as {named_datasets.EXAMPLES}; default: those of the gin files",
  )
  parser.add_argument(
    "--manual_dir",
    metavar="FOLDER",
    help="folder of the files of DATASET, if you downloaded them yourself",
  )
  parser.add_argument(
    "--split",
    choices=splits.SPLITS,
    default="validation",
    help="show: split of the user",
  )
  parser.add_argument("--user", help="show: id of the user; default: the first")
  parser.add_argument(
    "--max_tokens",
    type=int,
    help="show: longest prompt in tokens; the oldest items are dropped",
  )
  parser.add_argument(
    "--quiet", action="store_true", help="show results only, no progress"
  )
  return config.parse_arguments(parser, argv)


def _names(dataset: dataset_lib.Dataset) -> tuple[str, ...]:
  """The names in MIXTURE_OR_TASK_NAME; without it, those of all stages."""
  plain = config.macro(NAME_MACRO, None)
  chosen = [
    config.macro(f"{stage}/{NAME_MACRO}", plain)
    for stage in config.macro("STAGES", ())
  ]
  names = tuple(dict.fromkeys(name for name in chosen or [plain] if name))
  return dataset.names() if not names or names == ("all",) else names


def _build(
  dataset: dataset_lib.Dataset,
  names: Sequence[str],
  arguments: argparse.Namespace,
) -> None:
  # TensorFlow comes with this import; the other actions do without it.
  from calrec_jax.data.seqio.building import build_tfds

  built = build_tfds(dataset, *names, progress=not arguments.quiet)
  for domain, tfds_name in built.items():
    print(f"{domain}: {tfds_name}")


def _cache(
  dataset: dataset_lib.Dataset,
  names: Sequence[str],
  arguments: argparse.Namespace,
) -> None:
  folders = building.build(dataset, *names, progress=not arguments.quiet)
  lines = {}
  for domain, folder in folders.items():
    opened = token_cache.TokenCache.open(folder)
    counts = ", ".join(
      f"{opened.num_documents(split):,} {split}" for split in splits.SPLITS
    )
    print(f"{domain}: {opened.num_items:,} items, {counts}: {folder}")
    if "full_size" in opened.card.get("vocabulary", {}):
      lines[card_lib.vocabulary_line(opened.card["vocabulary"])] = None
  print("\n".join(lines), end="\n" if lines else "")


def _card(
  dataset: dataset_lib.Dataset,
  names: Sequence[str],
  arguments: argparse.Namespace,
) -> None:
  folders = building.build(dataset, *names, progress=not arguments.quiet)
  for folder in folders.values():
    print(card_lib.render(token_cache.TokenCache.open(folder).card), end="\n\n")


def _show(
  dataset: dataset_lib.Dataset,
  names: Sequence[str],
  arguments: argparse.Namespace,
) -> None:
  folders = building.build(dataset, *names, progress=not arguments.quiet)
  for folder in folders.values():
    print(
      describe_user(
        token_cache.TokenCache.open(folder),
        arguments.split,
        arguments.user,
        arguments.max_tokens,
      )
    )


def describe_user(
  opened: token_cache.TokenCache,
  split: str,
  user_id: str | None,
  max_tokens: int | None,
) -> str:
  """One user's prompt as text, with token counts and the target.

  Args:
    opened: Cache of the domain.
    split: Name of the user's split.
    user_id: Id of the user in the source; None takes the first user.
    max_tokens: Length of the longest prompt in tokens, or None.

  Raises:
    InputError: If the split has no such user.
  """
  document = _find_user(opened, split, user_id)
  catalogue = opened.catalogue
  history, target = document.items[:-1], int(document.items[-1])
  tokens = tokenization.prompt_tokens(
    opened.prompt, [catalogue.tokens(row) for row in history], max_tokens
  )
  answer = catalogue.tokens(target)
  decode = opened.vocabulary().decode
  rule = "-" * 72
  return "\n".join(
    (
      f"{opened.name}, {split}: user {document.user_id}, {len(history)} items "
      f"in the history, {len(tokens)} tokens in the prompt",
      rule,
      decode(tokens.tolist()),
      rule,
      f"followed by item {catalogue.item_ids[target]} (catalogue row {target}, "
      f"{len(answer)} tokens, bought {catalogue.train_counts[target]:,} times "
      "in training)",
      decode(answer.tolist()).rstrip("\n"),
    )
  )


def _find_user(
  opened: token_cache.TokenCache, split: str, user_id: str | None
) -> token_cache.DocumentRecord:
  for index in range(opened.num_documents(split)):
    document = opened.document(split, index)
    if user_id in (None, document.user_id):
      return document
  raise InputError(
    f"{opened.name} has no user {user_id!r} in its {split} split (--user)."
  )


_ACTIONS = {"build": _build, "cache": _cache, "card": _card, "show": _show}
