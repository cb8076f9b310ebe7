"""What decides the answers of a recommender, for jobs that save answers.

Answers on disk are used again only where all of this is equal; see
`storage.blocks`. What cannot change an answer, such as the number of processes,
of data-parallel devices or of users in a call, is left out on purpose. Code
counts by the versions of its components and by `Recommender.version`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import pathlib
from typing import Any

import jax

from calrec_jax import config, data, models, recommend
from calrec_jax.checkpoint import store
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.recommend.prompts import PromptLimits
from calrec_jax.recommend.trained_model import TrainedModel
from calrec_jax.storage import identity

_CONFIGURED = "calrec_jax.recommend"
# Rooms whose code decides an answer, apart from `Recommender.version`.
_COMPONENTS = (data, models, recommend)
_PACKAGES = ("calrec_jax", "jax", "jaxlib", "numpy", "bm25s")


def of_answers(
  cache: TokenCache,
  model: TrainedModel | None,
  limits: PromptLimits,
  mesh: jax.sharding.Mesh,
) -> dict[str, Any]:
  """What decides the answers of one recommender, JSON-ready.

  Args:
    cache: Token cache of the domain.
    model: Trained model; None for a recommender that does not use it.
    limits: How much of a history is read.
    mesh: Devices that the model runs on.
  """
  found: dict[str, Any] = {
    "data": {"name": cache.name, "fingerprint": cache.fingerprint},
    "settings": config.bindings_of(_CONFIGURED),
    "components": {
      component.__name__: component.VERSION for component in _COMPONENTS
    },
    "versions": {
      package: importlib.metadata.version(package) for package in _PACKAGES
    },
  }
  if model is not None:
    found["checkpoint"] = of_checkpoint(model.checkpoint)
    found["limits"] = dataclasses.asdict(limits)
    found["model"] = dataclasses.asdict(model.decoder.config)
    # Another kind of device rounds otherwise, and so do sums over a split
    # width; rows that are spread over more devices do not.
    found["device"] = jax.devices()[0].device_kind
    found["tensor"] = mesh.shape["tensor"]
  return identity.plain(found)


def of_checkpoint(checkpoint: pathlib.Path) -> dict[str, Any]:
  """What distinguishes one checkpoint from another, without reading its arrays.

  Args:
    checkpoint: Folder `checkpoint_<step>`; it may be moved and renamed.
  """
  stored = store.read_json(checkpoint, "lineage")
  # The manifest names every chunk by numbers that no other save has.
  manifests = sorted((checkpoint / "state").rglob("manifest.ocdbt"))
  digest = hashlib.sha256()
  for path in manifests or [checkpoint / "state" / "_METADATA"]:
    digest.update(path.read_bytes())
  return {
    "stage": stored.get("stage"),
    "name": checkpoint.name,
    "lineage_sha256": identity.digest(stored),
    "manifest_sha256": digest.hexdigest(),
  }
