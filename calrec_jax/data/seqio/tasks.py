"""SeqIO tasks and mixtures over the TFDS datasets.

A domain is an ordinary text-to-text task for any SeqIO trainer: `inputs` is the
prompt, `targets` the last item of the document. The pieces of a prompt are
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
from calrec_jax.data.seqio import builder
from calrec_jax.data.seqio import vocabulary as seqio_vocabulary
from calrec_jax.data.seqio.quiet_tensorflow import seqio, tf, tfds
from calrec_jax.data.vocabulary import files as vocabulary_files


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
    }

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


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

  def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    items = tf.RaggedTensor.from_row_lengths(
      example["tokens"], example["lengths"]
    )
    history, target = items[:-1], items[-1]
    if limit is not None:
      lengths = history.row_lengths() + max(len(prompt.first), len(prompt.next))
      from_end = tf.cumsum(lengths, reverse=True)
      history = tf.ragged.boolean_mask(history, from_end <= limit - fixed)
    after = tf.tile(tf.constant([prompt.next], tf.int32), [history.nrows(), 1])
    described = tf.concat([history, after], axis=1).flat_values
    opening = tf.constant(head + prompt.first, tf.int32)
    inputs = tf.concat([opening, described], axis=0)
    return {**example, "inputs": inputs, "targets": target}

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def exact_text(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """Fraction of predictions that equal the target's text exactly."""
  same = [
    str(target).strip() == str(prediction).strip()
    for target, prediction in zip(targets, predictions, strict=True)
  ]
  return {"exact_text": float(np.mean(same)) if same else 0.0}
