"""The TFDS builder of a domain. Needs TensorFlow; only the data verbs do.

The datasets can be read by TFDS and SeqIO without this project: everything a
document needs, texts included, is in its example. The files are written by
threads, or by the workers of an Apache Beam pipeline; they come out the same.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import io
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import tqdm
from etils import epath

from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.domain import splits
from calrec_jax.data.seqio import shards
from calrec_jax.data.seqio.quiet_tensorflow import registered, tfds
from calrec_jax.data.seqio.shards import CATALOGUE
from calrec_jax.errors import MissingPackageError
from calrec_jax.storage import build_lock

__all__ = ["CATALOGUE", "NAME", "PurchaseHistories", "build", "full_name"]

NAME = "purchase_histories"
_VERSION = "1.0.0"
_MOST_THREADS = 8  # Each holds a block of documents.
_SPLITS = (CATALOGUE, *splits.SPLITS)


def _column(dtype: Any) -> tfds.features.Tensor:
  return tfds.features.Tensor(shape=(None,), dtype=dtype)


# Read back from its files alone, so the class stays out of TFDS's registry.
with registered.skip_registration():

  class PurchaseHistories(tfds.core.dataset_builder.FileReaderBuilder):
    """Documents of one prepared domain."""

    VERSION = tfds.core.Version(_VERSION)
    RELEASE_NOTES = {_VERSION: "Documents of users and of the catalogue."}  # noqa: RUF012
    name = NAME
    # TFDS would look for checksums of downloads beside this file, by way of
    # a package (importlib_resources) that it does not declare.
    code_path = None

    def __init__(
      self,
      *,
      prepared: domain_lib.Prepared,
      config: str,
      data_dir: str,
      progress: bool = True,
    ) -> None:
      """A builder for one domain.

      Args:
        prepared: the domain's documents and catalogue.
        config: name of the TFDS config; it holds the fingerprint.
        data_dir: TFDS's root folder.
        progress: shows progress bars.
      """
      self._prepared = prepared
      self._columns = shards.Columns.of(prepared)
      self._progress = progress
      super().__init__(
        data_dir=data_dir,
        config=tfds.core.BuilderConfig(
          name=config, description=f"Purchases of {prepared.name}."
        ),
      )

    def _info(self) -> tfds.core.DatasetInfo:
      return tfds.core.DatasetInfo(
        builder=self,
        description="Purchase histories, oldest event first.",
        features=tfds.features.FeaturesDict(
          {
            "user_id": tfds.features.Text(),
            # Read back like a `Sequence`, but written several times faster.
            "items": _column(np.int32),
            "item_ids": _column(np.str_),
            "texts": _column(np.str_),
            "timestamps": _column(np.int64),
            "events": _column(np.int64),
          }
        ),
      )

    def needed_bytes(self) -> int:
      """About how large the dataset becomes."""
      return sum(map(self._columns.size, _SPLITS))

    def _download_and_prepare(
      self, dl_manager: Any, download_config: Any
    ) -> None:
      del dl_manager
      columns = self._columns
      files = {split: columns.files(split) for split in _SPLITS}
      paths = {
        file: self._get_filename_template(split).sharded_filepath(
          shard_index=file.number, num_shards=file.count
        )
        for split in _SPLITS
        for file in files[split]
      }
      if download_config.beam_options is None:
        sizes = self._write_here(columns, paths)
      else:
        sizes = self._write_by_beam(columns, paths, download_config)
      self.info.set_splits(
        tfds.core.splits.SplitDict(
          [
            tfds.core.SplitInfo(
              name=split,
              shard_lengths=[len(columns.rows(file)) for file in files[split]],
              num_bytes=sum(sizes[file] for file in files[split]),
              filename_template=self._get_filename_template(split),
            )
            for split in _SPLITS
          ]
        )
      )

    def _write_here(
      self, columns: shards.Columns, paths: dict[shards.File, epath.Path]
    ) -> dict[shards.File, int]:
      """Writes the files in threads: Arrow works without Python's lock."""
      lock = threading.Lock()
      total = sum(map(columns.num_documents, _SPLITS))
      with (
        tqdm.tqdm(
          total=total,
          desc=f"tfds {self._prepared.name}",
          unit=" documents",
          disable=not self._progress,
          leave=False,
        ) as bar,
        concurrent.futures.ThreadPoolExecutor(
          min(os.cpu_count() or 1, _MOST_THREADS)
        ) as pool,
      ):

        def done(documents: int) -> None:
          with lock:
            bar.update(documents)

        futures = {
          file: pool.submit(shards.write, path, columns, file, done)
          for file, path in paths.items()
        }
        try:
          return {file: future.result() for file, future in futures.items()}
        finally:  # One failed: do not begin the others.
          pool.shutdown(cancel_futures=True)

    def _write_by_beam(
      self,
      columns: shards.Columns,
      paths: dict[shards.File, epath.Path],
      download_config: Any,
    ) -> dict[shards.File, int]:
      """Has the files written by a pipeline's workers.

      They must see the data's folder, from where they take the columns.
      """
      import apache_beam as beam  # Of the extra `beam`.

      folder = epath.Path(self.data_dir) / "columns"
      columns.save(folder)
      with beam.Pipeline(
        runner=download_config.beam_runner, options=download_config.beam_options
      ) as pipeline:
        _ = (
          pipeline
          | beam.Create(list(paths.items()))
          | beam.Reshuffle()  # Else one worker takes them all.
          | beam.MapTuple(functools.partial(_write_there, os.fspath(folder)))
        )
      folder.rmtree()
      return {
        file: path.stat().length - shards.FRAME_BYTES * len(columns.rows(file))
        for file, path in paths.items()
      }


def _write_there(folder: str, file: shards.File, path: epath.Path) -> None:
  """Writes one file in a worker of a pipeline."""
  with tfds.core.utils.incomplete_file(path) as partial:
    shards.write(partial, _columns(folder), file)


@functools.lru_cache(maxsize=1)
def _columns(folder: str) -> shards.Columns:
  return shards.Columns.load(epath.Path(folder), splits.SPLITS)


def build(
  prepared: domain_lib.Prepared,
  *,
  config: str,
  data_dir: str,
  progress: bool = True,
  beam_options: Sequence[str] | None = None,
) -> None:
  """Writes a domain's TFDS dataset, unless it is there.

  Args:
    prepared: the domain's documents and catalogue.
    config: name of the TFDS config; it holds the fingerprint.
    data_dir: TFDS's root folder.
    progress: shows progress bars.
    beam_options: flags of the Apache Beam pipeline that writes the files, such
      as `--runner=FlinkRunner`; None writes them here.
  """
  tfds.disable_progress_bar()
  builder = PurchaseHistories(
    prepared=prepared, config=config, data_dir=data_dir, progress=progress
  )
  # TFDS announces downloads of unknown size; there are none.
  with (
    contextlib.redirect_stdout(io.StringIO()),
    build_lock.room(builder.data_dir, builder.needed_bytes()),
  ):
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(
        try_download_gcs=False,
        beam_options=None if beam_options is None else _beam(beam_options),
      ),
      file_format="tfrecord",
    )


def _beam(flags: Sequence[str]) -> Any:
  try:
    from apache_beam.options import pipeline_options
  except ModuleNotFoundError as error:
    raise MissingPackageError(
      "Dataset.beam_options is set, but Apache Beam is not installed. It needs "
      "an environment of its own: launch/locks/beam-py3.11.txt."
    ) from error
  return pipeline_options.PipelineOptions(list(flags))


def full_name(config: str) -> str:
  """The name `tfds.load` and SeqIO know a config by."""
  return f"{NAME}/{config}:{_VERSION}"
