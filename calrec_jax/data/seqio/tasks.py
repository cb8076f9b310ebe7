"""SeqIO tasks and mixtures over the TFDS datasets. Needs TensorFlow.

A domain is an ordinary text-to-text task that any SeqIO trainer can use:
`inputs` is the prompt, `targets` the last item of the document. The pieces of
a prompt are tokenised apart and joined as tokens, here as everywhere. The
token cache is made of the same files by the same preprocessor, but many
documents at a time.
"""

# pyright: reportAttributeAccessIssue=false
# (TensorFlow makes its functions at run time.)

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from calrec_jax.data import records
from calrec_jax.data.cache import files
from calrec_jax.data.domain import splits
from calrec_jax.data.seqio import builder
from calrec_jax.data.seqio import vocabulary as seqio_vocabulary
from calrec_jax.data.seqio.quiet_tensorflow import held_stderr, seqio, tf, tfds
from calrec_jax.data.vocabulary import trained as vocabulary_lib

_READ_BATCH = 2048  # Documents: some 10 MB.

# Shows how far the batches of a task have been read.
Progress = Callable[[Iterable[Any]], Iterable[Any]]


class _Registered(NamedTuple):
  """What a domain was registered with."""

  config: str
  data_dir: str
  vocabulary: vocabulary_lib.Vocabulary
  prompt: records.PromptTokens

  @property
  def identity(self) -> tuple[Any, ...]:
    """Equal for equal tasks."""
    return (self.config, self.data_dir, self.vocabulary.sha256, self.prompt)


# By name, so that registering again is no error.
_registered: dict[str, _Registered] = {}
_registered_mixtures: dict[str, tuple[Any, ...]] = {}


def register_domain(
  name: str,
  *,
  config: str,
  data_dir: str,
  vocabulary: vocabulary_lib.Vocabulary,
  prompt: records.PromptTokens,
) -> None:
  """Registers a domain's task with SeqIO.

  Args:
    name: the domain's name.
    config: its TFDS config.
    data_dir: TFDS's root folder.
    vocabulary: tokenises the items.
    prompt: the prompt's pieces in this vocabulary.
  """
  registered = _Registered(config, data_dir, vocabulary, prompt)
  known = _registered.get(name)
  if known is not None and known.identity == registered.identity:
    return
  source = seqio.TfdsDataSource(
    tfds_name=builder.full_name(config),
    tfds_data_dir=data_dir,
    splits=("train", "validation", "test", builder.CATALOGUE),
  )
  pieces = seqio_vocabulary.for_tasks(vocabulary)
  _add(
    name,
    source=source,
    preprocessors=[
      functools.partial(tokenise, vocabulary=pieces, end=prompt.end),
      seqio.CacheDatasetPlaceholder(),
      functools.partial(join_prompt, prompt=prompt),
    ],
    output_features={
      "inputs": seqio.Feature(vocabulary=pieces, add_eos=False),
      "targets": seqio.Feature(vocabulary=pieces, add_eos=False),
    },
    metric_fns=[exact_text],
  )
  _registered[name] = registered


def register_mixture(
  name: str, domains: Sequence[str], exponent: float
) -> None:
  """Registers a mixture that draws domain c with weight users_c ** exponent.

  Args:
    name: the mixture's name.
    domains: names of registered domains.
    exponent: 0.3 in the paper; 0 draws all alike, 1 by the number of users.
  """
  members = tuple((name, _registered[name].identity) for name in domains)
  identity = (members, exponent)
  if _registered_mixtures.get(name) == identity:
    return
  if name in seqio.MixtureRegistry.names():
    seqio.MixtureRegistry.remove(name)
  rate = functools.partial(mixing_rate, exponent=exponent)
  seqio.MixtureRegistry.add(name, [(domain, rate) for domain in domains])
  _registered_mixtures[name] = identity


def mixing_rate(task: seqio.Task, exponent: float) -> float:
  """A task's weight in a mixture: its training users to a power."""
  users = task.num_input_examples("train")
  if users is None:
    raise ValueError(f"The source of {task.name} does not count its users.")
  return users**exponent


def tokenise(
  dataset: tf.data.Dataset, vocabulary: seqio.Vocabulary, end: int
) -> tf.data.Dataset:
  """Tokenises every item of a document apart.

  Args:
    dataset: examples of the TFDS builder.
    vocabulary: tokenises the items' texts.
    end: the end marker, which closes every item.

  Returns:
    The examples with `tokens` (all items one after another) and `lengths`
    (tokens of each item) in place of the texts.
  """

  def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    ragged = tf.cast(vocabulary.encode_tf(example["texts"]), tf.int32)
    closed = tf.concat(
      [ragged, tf.fill([ragged.nrows(), 1], tf.constant(end, tf.int32))],
      axis=1,
    )
    return {
      "tokens": closed.flat_values,
      "lengths": tf.cast(closed.row_lengths(), tf.int32),
      "user_id": example["user_id"],
      "items": example["items"],
      "item_ids": example["item_ids"],
      "texts": example["texts"],
    }

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def join_prompt(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int] | None,
  prompt: records.PromptTokens,
) -> tf.data.Dataset:
  """Joins the items of a document to a prompt and its target.

  A prompt that is longer than `sequence_length["inputs"]` loses its oldest
  items, never half an item.

  Args:
    dataset: examples of `tokenise`.
    sequence_length: SeqIO's limits by feature, or None.
    prompt: the prompt's pieces.

  Returns:
    The examples with `inputs`, which ends with the words before the target,
    and `targets`, the last item's tokens.
  """
  limit = (sequence_length or {}).get("inputs")
  head = ((prompt.begin,) if prompt.begin is not None else ()) + prompt.prefix
  fixed = len(head) + len(prompt.next)

  def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    items = tf.RaggedTensor.from_row_lengths(
      example["tokens"], example["lengths"]
    )
    history, target = items[:-1], items[-1]
    if limit is not None:
      lengths = history.row_lengths() + max(len(prompt.first), len(prompt.next))
      from_end = tf.cumsum(lengths, reverse=True)
      history = tf.ragged.boolean_mask(history, from_end <= limit - fixed)
    count = history.nrows()
    opening = tf.RaggedTensor.from_row_lengths(
      tf.concat(
        [
          tf.constant(prompt.first, tf.int32),
          tf.tile(tf.constant(prompt.next, tf.int32), [count]),
        ],
        axis=0,
      ),
      tf.concat(
        [[len(prompt.first)], tf.fill([count], len(prompt.next))], axis=0
      ),
    )
    told = tf.concat([opening[:-1], history], axis=1).flat_values
    inputs = tf.concat([tf.constant(head, tf.int32), told, opening[-1]], axis=0)
    return {**example, "inputs": inputs, "targets": target}

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def exact_text(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """Share of predictions that are the target's text to the letter."""
  same = [
    str(target).strip() == str(prediction).strip()
    for target, prediction in zip(targets, predictions, strict=True)
  ]
  return {"exact_text": float(np.mean(same)) if same else 0.0}


def read_catalogue(
  domain: str, progress: Progress = iter
) -> list[files.CatalogueRecord]:
  """The catalogue of a registered domain by row, tokenised as in its task."""
  registered = _registered[domain]
  batches = _batches(
    registered, builder.CATALOGUE, ("user_id", "items", "item_ids", "texts")
  )
  # A document may have any number of items: a batch of one-item documents is
  # like a long one, and all of it is tokenised at once.
  batches = tokenise(
    batches.map(
      lambda batch: (
        batch
        | {name: batch[name].flat_values for name in ("item_ids", "texts")}
      )
    ),
    seqio_vocabulary.for_tasks(registered.vocabulary),
    registered.prompt.end,
  )
  columns = _columns(batches, progress)
  texts, item_ids = columns["texts"].values, columns["item_ids"].values
  tokens = columns["tokens"].values
  stops = np.cumsum(columns["lengths"].values)
  starts = stops - columns["lengths"].values
  # The files are in a random order, for those who shuffle them.
  return [
    files.CatalogueRecord(
      item_id=item_ids[row].decode(),
      text=texts[row].decode(),
      tokens=tokens[starts[row] : stops[row]],
    )
    for row in np.argsort(columns["items"].values).tolist()
  ]


def read_documents(
  domain: str, split: str, progress: Progress = iter
) -> records.DocumentColumns:
  """The documents of a split of a registered domain, from its task's source.

  They are in the order of their events, which is that of the users.
  """
  columns = _columns(
    _batches(
      _registered[domain], split, ("user_id", "items", "timestamps", "events")
    ),
    progress,
  )
  offsets = columns["events"].offsets
  order = np.argsort(columns["events"].values[offsets[:-1]], kind="stable")
  starts, stops = offsets[order], offsets[order + 1]
  rows = splits.ranges(starts, stops)
  return records.DocumentColumns(
    user_ids=[user.decode() for user in columns["user_id"].values[order]],
    offsets=np.concatenate([[0], np.cumsum(stops - starts)]),
    items=columns.pop("items").values[rows].astype(np.int32),
    timestamps=columns.pop("timestamps").values[rows],
    events=columns.pop("events").values[rows],
  )


def _batches(
  registered: _Registered, split: str, features: Sequence[str]
) -> tf.data.Dataset:
  """Chosen features of a split, some thousand documents at a time.

  SeqIO and TFDS parse one example after another, all of it.
  """
  opened = tfds.builder(
    builder.full_name(registered.config), data_dir=registered.data_dir
  )
  kinds = {
    name: tf.io.FixedLenFeature((), tf.string)
    if name == "user_id"
    else tf.io.RaggedFeature(
      tf.string if name in ("item_ids", "texts") else tf.int64
    )
    for name in features
  }
  return (
    tf.data.TFRecordDataset(opened.info.splits[split].filepaths)
    .batch(_READ_BATCH)
    .map(
      lambda batch: tf.io.parse_example(batch, kinds),
      num_parallel_calls=tf.data.AUTOTUNE,
    )
    .prefetch(tf.data.AUTOTUNE)
  )


def _columns(
  batches: tf.data.Dataset, progress: Progress
) -> dict[str, _Column]:
  """The features of all batches as columns."""
  iterator = iter(batches)
  with held_stderr():  # The tokeniser reports that it normalises nothing.
    first = next(iterator, None)
  found = {name: [] for name in batches.element_spec}
  for batch in progress(
    itertools.chain([] if first is None else [first], iterator)
  ):
    for name, values in batch.items():
      found[name].append(values)
  return {name: _Column(found.pop(name)) for name in list(found)}


class _Column:
  """One feature of all examples: `values`, and where each begins in them."""

  def __init__(self, batches: Sequence[tf.Tensor | tf.RaggedTensor]):
    flat, lengths = [], [np.zeros(1, np.int64)]
    for batch in batches:
      if isinstance(batch, tf.RaggedTensor):
        flat.append(batch.flat_values.numpy())
        lengths.append(batch.row_lengths().numpy())
      else:
        flat.append(batch.numpy())
        lengths.append(np.ones(len(flat[-1]), np.int64))
    self.values = np.concatenate(flat or [np.zeros(0, np.int64)])
    self.offsets = np.cumsum(np.concatenate(lengths))


def _add(name: str, **task: Any) -> None:
  if name in seqio.TaskRegistry.names():
    seqio.TaskRegistry.remove(name)
  seqio.TaskRegistry.add(name, **task)
