"""The TFDS builder of a domain, an ordinary generator of examples.

TFDS shuffles the examples by their keys, shards and writes them, either in this
process or in the workers of an Apache Beam pipeline.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from calrec_jax.data import records
from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.seqio import examples as examples_lib
from calrec_jax.data.seqio.quiet_tensorflow import registered, tfds
from calrec_jax.errors import MissingPackageError
from calrec_jax.storage import build_lock

NAME = "purchase_histories"
_VERSION = "1.0.0"
_BLOCK = 1024  # Examples that a Beam worker generates at a time.


def _column(dtype: Any) -> tfds.features.Tensor:
  return tfds.features.Tensor(shape=(None,), dtype=dtype)


# Read back from its files alone, so TFDS need not register the class.
with registered.skip_registration():

  class PurchaseHistories(tfds.core.GeneratorBasedBuilder):
    """Documents and items of one prepared domain."""

    VERSION = tfds.core.Version(_VERSION)
    RELEASE_NOTES = {_VERSION: "Documents of users and of the catalogue."}  # noqa: RUF012
    name = NAME
    # Else TFDS looks for checksums of downloads next to this file, using a
    # package (importlib_resources) that it does not declare.
    code_path = None

    def __init__(
      self,
      *,
      examples: examples_lib.Examples,
      config: str,
      data_dir: str,
      shared: str | None = None,
    ) -> None:
      """A builder for one domain; Beam workers load examples from `shared`."""
      self._examples, self._shared = examples, shared
      super().__init__(
        data_dir=data_dir,
        config=tfds.core.BuilderConfig(
          name=config, description="Purchases of one domain."
        ),
      )

    def _info(self) -> tfds.core.DatasetInfo:
      kinds = self._examples.kinds
      return tfds.core.DatasetInfo(
        builder=self,
        description="Purchase histories, oldest event first.",
        metadata=None
        if kinds is None
        else tfds.core.MetadataDict(kinds=dataclasses.asdict(kinds)),
        features=tfds.features.FeaturesDict(
          {
            "user_id": tfds.features.Text(),
            # Read back like a `Sequence`, but written several times faster.
            "items": _column(np.int32),
            "item_ids": _column(np.str_),
            "texts": _column(np.str_),
            "timestamps": _column(np.int64),
            "events": _column(np.int64),
            **{name: _column(np.int32) for name in self._examples.marks},
          }
        ),
      )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
      del dl_manager
      return {
        split: self._generate_examples(split)
        for split in examples_lib.SPLITS
        if self._examples.count(split)  # TFDS rejects empty splits.
      }

    def _generate_examples(self, split: str) -> Any:
      if self._shared is None:
        return self._examples.read(split)
      import apache_beam as beam  # pyright: ignore[reportMissingImports]

      return (
        beam.Create(range(0, self._examples.count(split), _BLOCK))
        | beam.Reshuffle()  # Else one worker gets all blocks.
        | beam.FlatMap(functools.partial(_read_block, self._shared, split))
      )


def _read_block(
  folder: str, split: str, start: int
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Generates a block of examples in a Beam worker."""
  return _load(folder).read(split, start, start + _BLOCK)


@functools.lru_cache(maxsize=1)
def _load(folder: str) -> examples_lib.Examples:
  return examples_lib.Examples.load(epath.Path(folder))


def write(
  prepared: domain_lib.Prepared,
  *,
  config: str,
  data_dir: str,
  progress: bool = True,
  beam_options: Sequence[str] | None = None,
) -> None:
  """Writes a domain's TFDS dataset, unless it exists.

  Args:
    prepared: Domain to write.
    config: Name of the TFDS config, with the fingerprint.
    data_dir: Folder of all TFDS datasets.
    progress: Whether progress bars are shown.
    beam_options: Flags of the Apache Beam pipeline that writes the files, see
      `Dataset.beam_options`; None writes them in this process.

  Raises:
    build_lock.DiskFullError: If the disk is full.
    MissingPackageError: If Apache Beam is requested and not installed.
  """
  if progress:
    tfds.enable_progress_bar()
  else:
    tfds.disable_progress_bar()
  examples = examples_lib.Examples.of(prepared)
  folder = os.path.join(data_dir, NAME, config)
  os.makedirs(folder, exist_ok=True)
  with (
    build_lock.room(folder, examples.num_bytes()),
    contextlib.ExitStack() as stack,
    # TFDS announces downloads of unknown size; there are none.
    contextlib.redirect_stdout(io.StringIO()),
  ):
    options, shared = None, None
    if beam_options is not None:
      options = _beam(beam_options)
      shared = stack.enter_context(
        # Named like TFDS's own unfinished folders, so that it is removed too.
        tempfile.TemporaryDirectory(dir=folder, prefix="incomplete.")
      )
      examples.save(epath.Path(shared))
    PurchaseHistories(
      examples=examples, config=config, data_dir=data_dir, shared=shared
    ).download_and_prepare(
      download_config=tfds.download.DownloadConfig(
        try_download_gcs=False, beam_options=options
      ),
      file_format="tfrecord",
    )


def _beam(flags: Sequence[str]) -> Any:
  try:
    from apache_beam.options import (  # pyright: ignore[reportMissingImports]
      pipeline_options,
    )
  except ModuleNotFoundError as error:
    raise MissingPackageError(
      "Dataset.beam_options is set, but Apache Beam is not installed. It needs "
      "an environment of its own: launch/locks/beam-py3.11.txt."
    ) from error
  return pipeline_options.PipelineOptions(list(flags))


def kinds(config: str, data_dir: str) -> records.EventKinds | None:
  """The kinds of event of a written dataset; None if it has one kind only."""
  info = tfds.builder(full_name(config), data_dir=data_dir).info
  found = (info.metadata or {}).get("kinds")
  if found is None:
    return None
  return records.EventKinds(tuple(found["names"]), tuple(found["targets"]))


def full_name(config: str) -> str:
  """Name of a config for `tfds.load` and SeqIO."""
  return f"{NAME}/{config}:{_VERSION}"
