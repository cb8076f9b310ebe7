"""`calrec data`: builds, caches and describes datasets."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np

from calrec_jax import config
from calrec_jax.cli import named_datasets, verb
from calrec_jax.data import building
from calrec_jax.data import dataset as dataset_lib
from calrec_jax.data.cache.files import CacheError, DocumentRecord
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.domain import card as card_lib
from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.domain import splits
from calrec_jax.data.feed import tokenization
from calrec_jax.data.logs import progress
from calrec_jax.data.logs.guessing import guess
from calrec_jax.errors import InputError
from calrec_jax.evaluate import promise, promise_text
from calrec_jax.recommend import candidates
from calrec_jax.storage import atomic

NAME_MACRO = "MIXTURE_OR_TASK_NAME"

_EPILOG = """\
cache   reads and checks the logs, writes the token caches that training reads
card    prints what a dataset holds, what is wrong with it, and how much
        repeats, order and words promise on it
guess   looks at files and writes a gin file for them: columns, times, filters
show    prints one user's prompt as text, and the item that followed
build   writes TFDS datasets, for trainers that read SeqIO tasks

A card is made without a cache; missing caches are built first for the others.
MIXTURE_OR_TASK_NAME = "all" means every domain.

Your own log, from its files to its card:

  calrec data guess purchases.csv products.csv --output=mine.gin
  calrec data card --gin_file=mine.gin

A known dataset needs no gin file:

  calrec data card amazon2018/Video_Games --manual_dir=downloads
  calrec data card completejourney/nutrition
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the verb on a command line and returns the exit status."""
  arguments = _parse(argv)
  if arguments.action == "guess":
    output = None if arguments.dry_run else arguments.output
    return _guess(arguments.datasets, output)
  configuration = named_datasets.configure(
    arguments.configuration, arguments.datasets, arguments.manual_dir
  )
  read = [NAME_MACRO]
  if arguments.action == "card":
    read.append(candidates.MACRO)
  configuration = dataclasses.replace(
    configuration, macros=(*configuration.macros, *read)
  )
  configuration.apply()
  if arguments.dry_run:
    print(config.text())
    return 0
  with config.explained():
    dataset = dataset_lib.Dataset()
  names, show_progress = _names(dataset), not arguments.quiet
  with progress.hidden(arguments.quiet):
    if arguments.action == "build":
      _build_tfds(dataset, names, show_progress)
      return 0
    if arguments.action == "card":
      work = building.Building(dataset, progress=show_progress)
      for domain in dataset.select(*names):
        _print_card(work, domain)
      return 0
    folders = building.build(dataset, *names, progress=show_progress)
    if arguments.action == "cache":
      _print_caches(folders)
      return 0
    for opened in map(TokenCache.open, folders.values()):
      print(
        _describe_user(
          opened, arguments.split, arguments.user, arguments.max_tokens
        )
      )
  return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = verb.parser("data", __doc__, _EPILOG)
  parser.add_argument(
    "action", choices=("build", "cache", "card", "guess", "show")
  )
  parser.add_argument(
    "datasets",
    nargs="*",
    metavar="DATASET",
    help=f"such as {named_datasets.EXAMPLES}; default: those of the gin files; "
    "guess: files of a log",
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
    "--output",
    metavar="FILE",
    help="guess: gin file to write, which must not exist; default: print it",
  )
  parser.add_argument(
    "--quiet", action="store_true", help="show results only, no progress"
  )
  return config.parse_arguments(parser, argv)


def _guess(paths: Sequence[str], output: str | None) -> int:
  """Prints or writes a gin file for the files of a log."""
  if not paths:
    raise InputError("guess needs the files of a log, such as purchases.csv.")
  text = guess.guess(paths)
  if output is None:
    print(text, end="")
    return 0
  path = pathlib.Path(output)
  if path.exists():
    raise InputError(f"--output={output}: the file exists. Name another one.")
  atomic.write_text(path, text)
  print(f"{path} is written. Read it, then: calrec data card --gin_file={path}")
  return 0


def _names(dataset: dataset_lib.Dataset) -> tuple[str, ...]:
  """The names in MIXTURE_OR_TASK_NAME; without it, those of all stages."""
  plain = config.macro(NAME_MACRO, None)
  chosen = [
    config.macro(f"{stage}/{NAME_MACRO}", plain)
    for stage in config.macro("STAGES", ())
  ]
  names = [name for name in chosen or [plain] if name]
  return dataset.names() if set(map(str, names)) <= {"all"} else tuple(names)


def _print_card(work: building.Building, domain: domain_lib.Domain) -> None:
  """A card, and what the log promises without any training."""
  rule = config.macro(candidates.MACRO, candidates.DEFAULT)
  sample, obstacle = None, None
  try:
    sample = work.sample(domain, promise.SPLIT, promise.SIZE)
    obstacle = promise.obstacle(sample)
  except CacheError as error:  # The card of a damaged cache can be read.
    obstacle = str(error)
  print(card_lib.render(work.card(domain)), end="\n\n")
  if sample is None or obstacle is not None:
    print(f"  nothing is measured on this log: {obstacle}", end="\n\n")
    return
  began = time.perf_counter()
  measured = promise.measure(sample, rule=rule, progress=work.progress)
  print(promise_text.format_promise(measured), end="\n\n")
  if work.progress:
    seconds = time.perf_counter() - began
    print(
      f"{domain.name}: measured without training ({seconds:.1f} s)",
      file=sys.stderr,
    )


def _build_tfds(
  dataset: dataset_lib.Dataset, names: Sequence[str], progress: bool
) -> None:
  # TensorFlow comes with this import; the other actions do without it.
  from calrec_jax.data.seqio.building import build_tfds

  for domain, name in build_tfds(dataset, *names, progress=progress).items():
    print(f"{domain}: {name}")


def _print_caches(folders: Mapping[str, str]) -> None:
  """One line per token cache, then one per pruned vocabulary."""
  vocabularies = {}
  for domain, folder in folders.items():
    opened = TokenCache.open(folder)
    counts = ", ".join(
      f"{opened.num_documents(split):,} {split}" for split in splits.SPLITS
    )
    print(f"{domain}: {opened.num_items:,} items, {counts}: {folder}")
    if "full_size" in opened.card.get("vocabulary", {}):
      line = card_lib.vocabulary_line(opened.card["vocabulary"])
      vocabularies[line] = None
  print("\n".join(vocabularies), end="\n" if vocabularies else "")


def _without_users(opened: TokenCache, split: str) -> str:
  """Why a split has no user, and which one has."""
  others = [name for name in splits.SPLITS if opened.num_documents(name)]
  remedy = f"Show one with --split={others[0]}." if others else ""
  return (
    f"{opened.name} has no user in its {split} split: no user has enough "
    f"events. {remedy}"
  )


def _describe_user(
  opened: TokenCache, split: str, user_id: str | None, max_tokens: int | None
) -> str:
  """A user's prompt as text, its length in tokens, and the target."""
  if not opened.num_documents(split):
    raise InputError(_without_users(opened, split))
  documents = (
    opened.document(split, index)
    for index in range(opened.num_documents(split))
  )
  document = next((d for d in documents if user_id in (None, d.user_id)), None)
  if document is None:
    raise InputError(
      f"{opened.name} has no user {user_id!r} in its {split} split (--user)."
    )
  catalogue = opened.catalogue
  stop = _last_target(document)
  history, target = document.items[:stop], int(document.items[stop])
  tokens = tokenization.prompt_tokens(
    opened.prompt,
    [catalogue.tokens(row) for row in history],
    max_tokens,
    kinds=None if document.kinds is None else document.kinds[:stop],
  )
  answer = catalogue.tokens(target)
  decode = opened.vocabulary().decode
  answer_text = decode(answer.tolist()).rstrip("\n")
  rule = "-" * 72
  return f"""\
{opened.name}, {split}: user {document.user_id}, {len(history)} items in the \
history, {len(tokens)} tokens in the prompt
{rule}
{decode(tokens.tolist())}
{rule}
followed by item {catalogue.item_ids[target]} (catalogue row {target}, \
{len(answer)} tokens, bought {catalogue.train_counts[target]:,} times in \
training)
{answer_text}"""


def _last_target(document: DocumentRecord) -> int:
  """Index of the last event that may be a target; else of the last event."""
  if document.targets is None or not document.targets.any():
    return len(document.items) - 1
  return int(np.flatnonzero(document.targets)[-1])
