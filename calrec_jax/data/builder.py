"""The TFDS builder of a domain. Needs TensorFlow; only the data verbs do.

The datasets can be read by TFDS and SeqIO without this project: everything a
document needs, texts included, is in its example.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tqdm

from calrec_jax.data import domain as domain_lib
from calrec_jax.data import splits
from calrec_jax.data.quiet_tensorflow import registered, tfds

NAME = "purchase_histories"
_VERSION = "1.0.0"
CATALOGUE = "catalogue"  # A split of documents of one item, without a user.


def _column(dtype: Any) -> tfds.features.Tensor:
  return tfds.features.Tensor(shape=(None,), dtype=dtype)


# Read back from its files alone, so the class stays out of TFDS's registry.
with registered.skip_registration():

  class PurchaseHistories(tfds.core.GeneratorBasedBuilder):
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

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
      del dl_manager
      generators = {
        split: self._users(split, documents)
        for split, documents in self._prepared.documents.items()
      }
      return {CATALOGUE: self._catalogue(), **generators}

    def _generate_examples(self) -> Iterator[Any]:
      raise NotImplementedError("every split has a generator of its own")

    def _bar(self, rows: range, split: str) -> Any:
      return tqdm.tqdm(
        rows,
        desc=f"tfds {self._prepared.name} {split}",
        unit=" documents",
        disable=not self._progress,
        leave=False,
      )

    def _catalogue(self) -> Iterator[tuple[int, dict[str, Any]]]:
      prepared = self._prepared
      for row in self._bar(range(len(prepared.item_ids)), CATALOGUE):
        yield (
          row,
          {
            "user_id": "",
            "items": np.array([row], np.int32),
            "item_ids": [prepared.item_ids[row]],
            "texts": [prepared.texts[row]],
            "timestamps": np.zeros(0, np.int64),
            "events": np.zeros(0, np.int64),
          },
        )

    def _users(
      self, split: str, documents: splits.Documents
    ) -> Iterator[tuple[int, dict[str, Any]]]:
      prepared = self._prepared
      events = prepared.events
      for row in self._bar(range(len(documents)), split):
        start, stop = int(documents.starts[row]), int(documents.stops[row])
        items = events.items[start:stop]
        yield (
          row,
          {
            "user_id": events.user_ids[int(documents.users[row])],
            "items": items,
            "item_ids": [prepared.item_ids[item] for item in items],
            "texts": [prepared.texts[item] for item in items],
            "timestamps": events.timestamps[start:stop],
            "events": np.arange(start, stop),
          },
        )


def build(
  prepared: domain_lib.Prepared,
  *,
  config: str,
  data_dir: str,
  progress: bool = True,
) -> None:
  """Writes a domain's TFDS dataset, unless it is there.

  Args:
    prepared: the domain's documents and catalogue.
    config: name of the TFDS config; it holds the fingerprint.
    data_dir: TFDS's root folder.
    progress: shows progress bars.
  """
  tfds.disable_progress_bar()
  builder = PurchaseHistories(
    prepared=prepared, config=config, data_dir=data_dir, progress=progress
  )
  # TFDS announces downloads of unknown size; there are none.
  with contextlib.redirect_stdout(io.StringIO()):
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(try_download_gcs=False),
      file_format="tfrecord",
    )


def full_name(config: str) -> str:
  """The name `tfds.load` and SeqIO know a config by."""
  return f"{NAME}/{config}:{_VERSION}"
