"""Sources of a stage's initial parameters.

INITIAL_CHECKPOINT_PATH or the previous stage: a checkpoint of calrec_jax, a t5x
checkpoint in Orbax's format, or a published model. Each reads its parameters
directly onto the devices.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

import flax.traverse_util
import numpy as np

from calrec_jax import config
from calrec_jax.checkpoint import restore, store, vocabulary_check
from calrec_jax.checkpoint.store import CheckpointError
from calrec_jax.data.cache.item_ids import KIND as ITEM_VOCABULARY
from calrec_jax.data.cache.item_ids import ItemVocabulary
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.vocabulary.files import Vocabulary
from calrec_jax.models import lora as loras
from calrec_jax.models import tuning
from calrec_jax.models.families import ModelConfig
from calrec_jax.models.pretrained import loading, pieces, sources
from calrec_jax.models.pretrained.t5x_names import T5xTree
from calrec_jax.storage import identity
from calrec_jax.weights.packages import WeightsError


class ParameterSource(Protocol):
  """Source of a stage's initial parameters; its text is its name."""

  def describe(self) -> dict[str, Any]:
    """Identity of the source, which the lineage records."""
    ...

  def params(
    self,
    config: ModelConfig,
    vocabulary: Vocabulary,
    abstract: Any,
    shardings: Any,
    fresh: Any,
  ) -> Any:
    """Reads the parameters onto their devices.

    Args:
      config: Configuration of the stage's model.
      vocabulary: Vocabulary of the stage.
      abstract: Unboxed shapes and dtypes of the model's parameters.
      shardings: `NamedSharding` of each parameter.
      fresh: Freshly initialised leaves of the model's LoRA, for a source that
        has none; empty without LoRA.

    Raises:
      CheckpointError: if the model or the vocabulary does not match.
      WeightsError: likewise, for a published model.
    """
    ...


class CheckpointSource:
  """A checkpoint of calrec_jax."""

  def __init__(self, checkpoint: pathlib.Path):
    self.checkpoint = checkpoint

  def __str__(self) -> str:
    return f"{self.checkpoint.parent.name}/{self.checkpoint.name}"

  def describe(self) -> dict[str, Any]:
    """Stage, step and digest of the lineage."""
    record = store.read_json(self.checkpoint, "lineage")
    return {
      "stage": record["stage"],
      "checkpoint": self.checkpoint.name,
      "lineage_sha256": identity.digest(record),
    }

  def params(self, config, vocabulary, abstract, shardings, fresh) -> Any:
    """See `ParameterSource`."""
    require_vocabulary(self.checkpoint, vocabulary)
    return restore.restore_params(
      self.checkpoint, config, abstract, shardings, fresh=fresh
    )


class T5xSource:
  """A checkpoint that t5x wrote with Orbax."""

  def __init__(self, checkpoint: pathlib.Path):
    self.checkpoint = checkpoint

  def __str__(self) -> str:
    return f"{self.checkpoint} (t5x)"

  def describe(self) -> dict[str, Any]:
    """Name of its folder, and a digest of the shapes of its arrays."""
    arrays = {
      path: f"{leaf.shape} {leaf.dtype}"
      for path, leaf in store.metadata(self.checkpoint).items()
    }
    return {
      "kind": "t5x checkpoint",
      "checkpoint": self.checkpoint.name,
      "arrays_sha256": identity.digest(arrays),
    }

  def params(self, config, vocabulary, abstract, shardings, fresh) -> Any:
    """See `ParameterSource`; that the vocabulary matches cannot be checked."""
    del config, vocabulary
    wanted = store.flatten(loras.without_lora(abstract))
    sharding_of = store.flatten(shardings)
    tree = T5xTree(self.stored())
    tree.check_parameters(wanted)
    loaded = {}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
      for path, leaf in wanted.items():
        parts = tree.pieces(path, leaf.shape, self.read)
        loaded[path] = pieces.assemble(
          leaf, sharding_of[path], pieces.in_parallel(pool, parts)
        )
    params = flax.traverse_util.unflatten_dict(loaded, sep="/")
    return tuning.join(params, fresh)

  def stored(self) -> dict[str, Any]:
    """Shapes and dtypes of its parameters, by path."""
    return {
      path.removeprefix("target/"): leaf
      for path, leaf in store.metadata(self.checkpoint).items()
      if path.startswith("target/")
    }

  def read(self, path: str) -> np.ndarray:
    """Reads one of its parameters."""
    return store.read_array(self.checkpoint, f"target/{path}")


class PretrainedSource:
  """A published model."""

  def __init__(self, source: sources.Source):
    self.source = source

  def __str__(self) -> str:
    return f"{self.source.path.name} ({self.source.kind})"

  def describe(self) -> dict[str, Any]:
    """See `sources.identity`."""
    return sources.identity(self.source)

  def require_vocabulary(self, vocabulary: Vocabulary) -> None:
    """Refuses a vocabulary whose tokens are not this model's."""
    difference = "Dataset.vocabulary is no published model's"
    if vocabulary.pretrained:
      difference = vocabulary_check.difference(self.source, vocabulary)
    if difference:
      raise CheckpointError(
        f"{self} comes with a vocabulary of its own, but {difference}. Include "
        "data/pretrained.gin after the dataset's file and set "
        "VOCABULARY_SOURCE to the same model."
      )

  def params(self, config, vocabulary, abstract, shardings, fresh) -> Any:
    """See `ParameterSource`; reads only the rows of a pruned vocabulary."""
    self.require_vocabulary(vocabulary)
    params = loading.load_params(
      self.source,
      config,
      shardings,
      abstract=loras.without_lora(abstract),
      row_map=vocabulary.row_map,
      progress=True,
    )
    return tuning.join(params, fresh)


def open_source(path: str | os.PathLike[str]) -> ParameterSource:
  """Opens a source.

  Args:
    path: Path of a `checkpoint_<step>` folder, a stage's folder, a t5x
      checkpoint in Orbax's format, a Hugging Face folder or a GGUF file, or the
      name of a packaged model.

  Raises:
    CheckpointError: if there is no complete checkpoint.
    WeightsError: for an unsupported format, with the remedy.
  """
  if sources.is_source(path):
    return PretrainedSource(sources.open_source(path))
  folder = pathlib.Path(path).expanduser().absolute()
  if not folder.exists():
    try:
      sources.open_source(path)  # Its error lists the packaged models.
    except WeightsError as error:
      hint = config.looked_for(os.fspath(path))
      raise WeightsError(f"{error}{hint}") from error
  checkpoint = store.find(folder)
  if (checkpoint / "lineage").is_dir():
    return CheckpointSource(checkpoint)
  if (checkpoint / "state").is_dir():
    return T5xSource(checkpoint)
  raise CheckpointError(
    f"{checkpoint} is no checkpoint in Orbax's format. t5x's older formats are "
    "not read: restore it in t5x and save it with its Orbax checkpoint manager "
    "(checkpoint_<step>/state)."
  )


def vocabulary_record(cache: TokenCache, chosen: Any) -> dict[str, Any]:
  """A checkpoint's record of the vocabulary that its rows belong to.

  Args:
    cache: Token cache of the stage.
    chosen: Value of `Dataset.vocabulary`; if it has a `source`, an export takes
      the rest of a pruned vocabulary from there.

  Returns:
    Hashes and sizes, and the pieces of the prompt; `kept` lists the full
    vocabulary's id of each row, or is None if nothing was pruned.
  """
  vocabulary = cache.vocabulary()
  if isinstance(vocabulary, ItemVocabulary):
    return vocabulary.record()
  row_map = vocabulary.row_map
  return {
    "source": getattr(chosen, "source", None),
    "prompt": identity.plain(dataclasses.asdict(cache.prompt)),
    "sha256": vocabulary.sha256,
    "size": vocabulary.size,
    "begin": vocabulary.begin,
    "pretrained": vocabulary.pretrained,
    "full_size": vocabulary.full_size,
    "full_sha256": vocabulary.full_sha256,
    "kept": None if row_map is None else row_map.tolist(),
  }


def stored_vocabulary(checkpoint: pathlib.Path) -> Mapping[str, Any]:
  """The vocabulary record of a checkpoint; empty in older ones."""
  if not (checkpoint / "vocabulary").is_dir():
    return {}
  return store.read_json(checkpoint, "vocabulary")


def require_vocabulary(
  checkpoint: pathlib.Path, vocabulary: Vocabulary
) -> None:
  """Refuses a vocabulary that is not the checkpoint's."""
  stored = stored_vocabulary(checkpoint)
  reads_items = stored.get("kind") == ITEM_VOCABULARY
  if reads_items and not isinstance(vocabulary, ItemVocabulary):
    raise CheckpointError(
      f"{checkpoint} holds a model of item ids, not of texts. It ranks as "
      "'sasrec'; leave out the recommenders of language models."
    )
  if stored and stored["sha256"] != vocabulary.sha256:
    remedy = (
      "Use the dataset it was trained with, or its vocabulary: "
      "Dataset.vocabulary = @SentencePieceFile() with SentencePieceFile.path, "
      f"such as {checkpoint.parent}/vocabulary/sentencepiece.model."
    )
    if reads_items:
      remedy = (
        "A model of item ids has a row for each item that it was trained on; "
        "train it anew, from scratch, on a log with other items."
      )
    elif stored["kept"] is not None:
      remedy = (
        f"`calrec checkpoint convert {checkpoint} FOLDER --to=huggingface` "
        "writes it with its full vocabulary, which can be pruned anew."
      )
    raise CheckpointError(
      f"{checkpoint} was trained with the vocabulary "
      f"{stored['sha256'][:12]} of {stored['size']:,} tokens, but the token "
      f"cache has {vocabulary.sha256[:12]} of {vocabulary.size:,}: the same "
      f"ids mean other texts (Dataset.vocabulary). {remedy}"
    )
