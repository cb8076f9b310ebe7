"""Sources of a stage's initial parameters.

INITIAL_CHECKPOINT_PATH, or the stage before: a checkpoint of calrec_jax, one of
t5x in Orbax's format, or a published model. Each reads its parameters straight
onto the devices.
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
from calrec_jax.storage import lineage


class ParameterSource(Protocol):
  """Where the initial parameters of a stage come from."""

  def __str__(self) -> str:
    """A human-readable name."""
    ...

  def describe(self) -> dict[str, Any]:
    """What the lineage records of it."""
    ...

  def params(
    self,
    config: ModelConfig,
    vocabulary: Vocabulary,
    abstract: Any,
    shardings: Any,
    fresh: Any,
  ) -> Any:
    """The parameters, where they are to live.

    Args:
      config: Configuration of the stage's model.
      vocabulary: Vocabulary of the stage.
      abstract: Unboxed shapes and dtypes of the model's parameters.
      shardings: `NamedSharding` of each parameter.
      fresh: Freshly initialised leaves of the model's LoRA, for a source that
        has none; empty without LoRA.

    Raises:
      CheckpointError: if they are another model's, or of another vocabulary.
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
      "lineage_sha256": lineage.digest(record),
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
    """Its folder and arrays."""
    return {
      "kind": "t5x checkpoint",
      "checkpoint": self.checkpoint.name,
      "arrays_sha256": lineage.digest(
        {
          path: f"{leaf.shape} {leaf.dtype}"
          for path, leaf in store.metadata(self.checkpoint).items()
        }
      ),
    }

  def params(self, config, vocabulary, abstract, shardings, fresh) -> Any:
    """See `ParameterSource`; the caller knows what its rows mean."""
    del config, vocabulary
    wanted = flax.traverse_util.flatten_dict(
      loras.without_lora(abstract), sep="/"
    )
    places = flax.traverse_util.flatten_dict(shardings, sep="/")
    tree = T5xTree(self.stored())
    tree.check_parameters(wanted)
    loaded = {}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
      for path, leaf in wanted.items():
        parts = tree.pieces(path, leaf.shape, self.read)
        loaded[path] = pieces.assemble(
          leaf, places[path], pieces.in_parallel(pool, parts)
        )
    params = flax.traverse_util.unflatten_dict(loaded, sep="/")
    return tuning.join(params, fresh)

  def stored(self) -> dict[str, Any]:
    """Shapes of its parameters, by path."""
    return {
      path.removeprefix("target/"): leaf
      for path, leaf in store.metadata(self.checkpoint).items()
      if path.startswith("target/")
    }

  def read(self, path: str) -> np.ndarray:
    """One of them."""
    return store.read_array(self.checkpoint, f"target/{path}")


class PretrainedSource:
  """A published model."""

  def __init__(self, source: sources.Source):
    self.source = source

  def __str__(self) -> str:
    return f"{self.source.path.name} ({self.source.kind})"

  def describe(self) -> dict[str, Any]:
    """What identifies the model."""
    return sources.identity(self.source)

  def require_vocabulary(self, vocabulary: Vocabulary) -> None:
    """Refuses a vocabulary whose tokens are not this model's.

    Raises:
      CheckpointError: with the way out.
    """
    difference = (
      vocabulary_check.difference(self.source, vocabulary)
      if vocabulary.pretrained
      else "Dataset.vocabulary is no published model's"
    )
    if difference:
      raise CheckpointError(
        f"{self} comes with a vocabulary of its own, but {difference}. Include "
        "data/pretrained.gin after the dataset's file and set "
        "VOCABULARY_SOURCE to the same model."
      )

  def params(self, config, vocabulary, abstract, shardings, fresh) -> Any:
    """See `ParameterSource`; picks rows of a pruned vocabulary on the way."""
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
  """The source that a path means.

  Args:
    path: Path of a `checkpoint_<step>` folder, a stage's folder, a t5x
      checkpoint in Orbax's format, a Hugging Face folder or a GGUF file, or the
      name of a packaged model.

  Raises:
    CheckpointError: where there is no whole checkpoint.
    WeightsError: for a format that is not read, with the way out.
  """
  if sources.is_source(path):
    return PretrainedSource(sources.open_source(path))
  folder = pathlib.Path(path).expanduser().absolute()
  if not folder.exists():
    sources.open_source(path)  # Says which names and paths there are.
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
  """What a checkpoint records of the vocabulary its rows belong to.

  Args:
    cache: Token cache of the stage.
    chosen: Value of `Dataset.vocabulary`; where it has a `source`, an export
      finds the rest of the vocabulary there.

  Returns:
    Hashes and sizes, and the pieces of the prompt; `kept` lists the full
    vocabulary's id of each row, or is None where nothing was pruned.
  """
  vocabulary = cache.vocabulary()
  if isinstance(vocabulary, ItemVocabulary):
    return vocabulary.record()
  row_map = vocabulary.row_map
  return {
    "source": getattr(chosen, "source", None),
    "prompt": lineage.plain(dataclasses.asdict(cache.prompt)),
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
  """Refuses a vocabulary whose ids mean something else.

  Raises:
    CheckpointError: with both hashes and the way out.
  """
  stored = stored_vocabulary(checkpoint)
  reads_items = stored.get("kind") == ITEM_VOCABULARY
  if reads_items and not isinstance(vocabulary, ItemVocabulary):
    raise CheckpointError(
      f"{checkpoint} holds a model of item ids, not of texts. It ranks as "
      "'sasrec'; leave the recommenders of language models out."
    )
  if stored and stored["sha256"] != vocabulary.sha256:
    out = (
      f"`calrec checkpoint convert {checkpoint} FOLDER --to=huggingface` "
      "writes it with its full vocabulary, which can be pruned anew."
      if stored["kept"] is not None
      else "Use the dataset it was trained with."
    )
    raise CheckpointError(
      f"{checkpoint} was trained with the vocabulary "
      f"{stored['sha256'][:12]} of {stored['size']:,} tokens, but the token "
      f"cache has {vocabulary.sha256[:12]} of {vocabulary.size:,}: the same "
      f"ids mean other texts (Dataset.vocabulary). {out}"
    )
