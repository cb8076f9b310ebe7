"""SeqIO tasks and mixtures over the TFDS datasets.

A domain is an ordinary text-to-text task for any SeqIO trainer: `inputs` is the
prompt, `targets` the last item of the document; where a domain has several
kinds of event, the last that may be a target. The pieces of a prompt are
tokenised separately and joined as tokens, which equal those of the token cache.
"""

# pyright: reportAttributeAccessIssue=false
# (TensorFlow creates its functions at run time.)

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calrec_jax.data import records
from calrec_jax.data.seqio import builder, examples
from calrec_jax.data.seqio import vocabulary as seqio_vocabulary
from calrec_jax.data.seqio.quiet_tensorflow import seqio, tf, tfds
from calrec_jax.data.vocabulary import files as vocabulary_files

_IS_TARGET = "is_target"


def register_domain(
  name: str,
  *,
  config: str,
  data_dir: str,
  vocabulary: vocabulary_files.Vocabulary,
  prompt: records.PromptTokens,
) -> None:
  """Registers a domain's task with SeqIO, replacing one of the same name.

  Args:
    name: Name of the domain.
    config: Name of its TFDS config.
    data_dir: Folder of all TFDS datasets.
    vocabulary: Vocabulary that tokenises the items.
    prompt: Pieces of the prompt in this vocabulary.
  """
  tfds_name = builder.full_name(config)
  written = tfds.builder(tfds_name, data_dir=data_dir).info.splits
  source: Any = seqio.TfdsDataSource(  # Its own protocol rejects it.
    tfds_name=tfds_name, tfds_data_dir=data_dir, splits=tuple(written)
  )
  pieces = seqio_vocabulary.for_tasks(vocabulary)
  if name in seqio.TaskRegistry.names():
    seqio.TaskRegistry.remove(name)
  seqio.TaskRegistry.add(
    name,
    source=source,
    preprocessors=[
      functools.partial(tokenise, vocabulary=pieces, end=prompt.end),
      seqio.CacheDatasetPlaceholder(),
      end_with_target,
      functools.partial(join_prompt, prompt=prompt),
    ],
    output_features={
      "inputs": seqio.Feature(vocabulary=pieces, add_eos=False),
      "targets": seqio.Feature(vocabulary=pieces, add_eos=False),
    },
    metric_fns=[exact_text],
  )


def register_mixture(
  name: str, domains: Sequence[str], exponent: float
) -> None:
  """Registers a mixture that samples domain c with weight users_c ** exponent.

  Args:
    name: Name of the mixture.
    domains: Names of registered domains.
    exponent: Power of the number of users; 0.3 in the paper, 0 samples all
      domains equally.
  """
  if name in seqio.MixtureRegistry.names():
    seqio.MixtureRegistry.remove(name)
  rate = functools.partial(mixing_rate, exponent=exponent)
  seqio.MixtureRegistry.add(name, [(domain, rate) for domain in domains])


def mixing_rate(task: seqio.Task, exponent: float) -> float:
  """A task's weight in a mixture: its training users to a power."""
  users = task.num_input_examples("train")
  if users is None:
    raise ValueError(f"The source of {task.name} does not count its users.")
  return users**exponent


def tokenise(
  dataset: tf.data.Dataset, vocabulary: seqio.Vocabulary, end: int
) -> tf.data.Dataset:
  """Tokenises every item of a document separately.

  Args:
    dataset: Examples of the TFDS builder.
    vocabulary: Vocabulary that tokenises the items' texts.
    end: Token that ends every item.

  Returns:
    The examples with `tokens` (int32, those of all items) and `lengths` (int32,
    tokens of each item).
  """
  retained = ("user_id", "items", "item_ids", "texts")

  def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    ragged = tf.cast(vocabulary.encode_tf(example["texts"]), tf.int32)
    closed = tf.concat(
      [ragged, tf.fill([ragged.nrows(), 1], tf.constant(end, tf.int32))], axis=1
    )
    return {
      "tokens": closed.flat_values,
      "lengths": tf.cast(closed.row_lengths(), tf.int32),
      **{name: example[name] for name in retained},
      **{name: example[name] for name in examples.MARKS if name in example},
    }

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def end_with_target(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Cuts documents after the last event that may be a target.

  Documents without one are dropped, which only training documents are. Without
  kinds of event every document stays as it is.

  Args:
    dataset: Examples of `tokenise`.
  """
  features: Any = dataset.element_spec
  if _IS_TARGET not in features:
    return dataset

  def any_target(example: Mapping[str, tf.Tensor]) -> tf.Tensor:
    return tf.reduce_any(example[_IS_TARGET] > 0)

  def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    stop = tf.where(example[_IS_TARGET] > 0)[-1, 0] + 1
    tokens = tf.reduce_sum(example["lengths"][:stop])
    by_event = ("lengths", "items", "item_ids", "texts", *examples.MARKS)
    return {
      **example,
      "tokens": example["tokens"][:tokens],
      **{name: example[name][:stop] for name in by_event if name in example},
    }

  return dataset.filter(any_target).map(
    convert, num_parallel_calls=tf.data.AUTOTUNE
  )


def join_prompt(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int] | None,
  prompt: records.PromptTokens,
) -> tf.data.Dataset:
  """Joins the items of a document to a prompt and its target.

  A prompt that is longer than `sequence_length["inputs"]` loses its oldest
  items, never part of an item.

  Args:
    dataset: Examples of `tokenise`.
    sequence_length: SeqIO's limits in tokens by feature, or None.
    prompt: Pieces of the prompt.

  Returns:
    The examples with `inputs` (int32), which ends with the text before the
    target, and `targets` (int32), the last item's tokens.
  """
  limit = (sequence_length or {}).get("inputs")
  head = ((prompt.begin,) if prompt.begin is not None else ()) + prompt.prefix
  fixed = len(head) + len(prompt.next)
  pieces = (prompt.first, prompt.next)
  pieces += (*prompt.first_of_kind, *prompt.next_of_kind)
  longest = max(map(len, pieces))

  def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    items = tf.RaggedTensor.from_row_lengths(
      example["tokens"], example["lengths"]
    )
    history, target = items[:-1], items[-1]
    kinds = example["kinds"][:-1] if prompt.next_of_kind else None
    if limit is not None:
      lengths = history.row_lengths() + longest
      fits = tf.cumsum(lengths, reverse=True) <= limit - fixed
      history = tf.ragged.boolean_mask(history, fits)
      kinds = None if kinds is None else tf.boolean_mask(kinds, fits)
    if kinds is None:
      after = tf.tile(
        tf.constant([prompt.next], tf.int32), [history.nrows(), 1]
      )
      opening = tf.constant(head + prompt.first, tf.int32)
    else:
      after, opening = _of_kinds(prompt, head, kinds)
      after = after.with_row_splits_dtype(history.row_splits.dtype)
    described = tf.concat([history, after], axis=1).flat_values
    inputs = tf.concat([opening, described], axis=0)
    return {**example, "inputs": inputs, "targets": target}

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def _of_kinds(
  prompt: records.PromptTokens, head: tuple[int, ...], kinds: tf.Tensor
) -> tuple[tf.RaggedTensor, tf.Tensor]:
  """The text after every item of a history, and that before the first.

  Args:
    prompt: Pieces of the prompt, those of every kind of event too.
    head: Begin token and prefix.
    kinds: int32[n], kind of each event of the history.
  """
  nexts = tf.ragged.constant([*prompt.next_of_kind, prompt.next], tf.int32)
  query = len(prompt.next_of_kind)  # The target is not described.
  after = tf.concat([kinds, [query]], axis=0)[1:]
  firsts = tf.ragged.constant(
    [*(head + first for first in prompt.first_of_kind), head + prompt.first],
    tf.int32,
  )
  first = tf.concat([kinds, [query]], axis=0)[0]
  return tf.gather(nexts, after), firsts[first]


def exact_text(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """Fraction of predictions that equal the target's text exactly."""
  same = [
    str(target).strip() == str(prediction).strip()
    for target, prediction in zip(targets, predictions, strict=True)
  ]
  return {"exact_text": float(np.mean(same)) if same else 0.0}
