"""A trained language model, opened from a checkpoint."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import jax

from calrec_jax.checkpoint import initial_parameters, restore, store
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.errors import InputError
from calrec_jax.models.decoder import Decoder, DecoderConfig
from calrec_jax.models.families import ModelConfig, abstract_params
from calrec_jax.runtime import partitioning
from calrec_jax.storage import lineage


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
  """A decoder with its parameters, as a checkpoint holds them.

  Attributes:
    decoder: Module of the model.
    params: Parameters, on the devices of the active mesh.
    checkpoint: Folder that they were read from.
    lineage: Lineage of that checkpoint.
  """

  decoder: Decoder
  params: Any
  checkpoint: pathlib.Path
  lineage: dict[str, Any]

  @property
  def temperature(self) -> float | None:
    """Temperature that the towers were trained with; None if not known."""
    return lineage.temperature(self.lineage)


def load_model(
  checkpoint: pathlib.Path, decoder_config: ModelConfig, mesh: jax.sharding.Mesh
) -> TrainedModel:
  """Reads parameters straight onto the mesh, in the model's own dtype.

  Raises:
    InputError: for another model than a language model.
  """
  if not isinstance(decoder_config, DecoderConfig):
    raise InputError(
      f"A language model is needed, but Stage.decoder is {decoder_config}. "
      "Leave recommenders that use one out of Evaluation.recommenders."
    )
  decoder = Decoder(decoder_config)
  abstract, shardings = partitioning.place(abstract_params(decoder), mesh)
  params = restore.restore_params(
    checkpoint, decoder_config, abstract, shardings
  )
  return TrainedModel(
    decoder, params, checkpoint, store.read_json(checkpoint, "lineage")
  )


def open_model(
  path: str | os.PathLike[str],
  cache: TokenCache,
  decoder_config: ModelConfig,
  mesh: jax.sharding.Mesh,
) -> TrainedModel:
  """Opens the model that a path means, checked against a cache's vocabulary.

  Args:
    path: Folder of a checkpoint or of a stage.
    cache: Token cache whose vocabulary the model must have been trained with.
    decoder_config: Shape of the model.
    mesh: Devices that the parameters are placed on.
  """
  checkpoint = store.find(pathlib.Path(path))
  initial_parameters.require_vocabulary(checkpoint, cache.vocabulary())
  return load_model(checkpoint, decoder_config, mesh)
