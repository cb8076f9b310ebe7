"""calrec_jax's side of `against_transformers`: packed rows, one pass."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import calrec_decoding, library_job
from calrec_jax.checkpoint import store
from calrec_jax.data.feed.batch import Batch
from calrec_jax.metrics.weighted_sum import WeightedSum
from calrec_jax.models.decoder import Decoder
from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.models.next_token import next_token_loss
from calrec_jax.models.objective import Objective
from calrec_jax.models.pretrained import loading, sources
from calrec_jax.runtime import partitioning
from calrec_jax.train import train_step
from calrec_jax.train.state import TrainState


class Library:
  """See `library_process.Library`."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.job = library_job.read(folder)
    self.params: Any = None
    self.state: Any = None
    self._step: Callable[..., Any] | None = None
    self._batches: list[Batch] = []

  def load(
    self, source: str, cut: bool = True, checkpoint: bool = False
  ) -> dict[str, Any]:
    """Reads a published model, or a checkpoint of ours.

    Args:
      source: Path of the model.
      cut: Whether to prune the vocabulary to the job's.
      checkpoint: Whether it is a `checkpoint_<step>` folder.
    """
    config = DecoderConfig.from_record(self.job.decoder)
    if checkpoint:
      metadata = store.metadata(pathlib.Path(source))
      rows = metadata["target/token_embedder/embedding"].shape[0]
      config = dataclasses.replace(config, vocab_size=rows)
      abstract = loading.abstract_params(config)
      device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
      self.params = store.restore_params(
        pathlib.Path(source), abstract, jax.tree.map(lambda _: device, abstract)
      )
    else:
      opened = sources.open_source(source)
      if not cut:
        config = dataclasses.replace(config, vocab_size=opened.num_tokens)
      row_map = library_job.row_map(self.folder) if cut else None
      self.params = loading.load_params(opened, config, row_map=row_map)
    jax.block_until_ready(self.params)
    leaves = jax.tree.leaves(self.params)
    return {"parameters": sum(leaf.size for leaf in leaves)}

  def begin(self, part: str) -> dict[str, Any]:
    """Creates the state and the step of a part, without compiling."""
    objective: Any = Objective(**self.job.objective)
    reader = self._packed
    if part == "language_model":
      objective = LanguageModel(objective.loss_chunk_tokens)
      reader = self._rows
    self._batches = [reader(number) for number in range(self.job.batches)]
    optimizer = optax.adamw(
      self.job.learning_rate, weight_decay=library_job.WEIGHT_DECAY
    )
    self.state = TrainState(
      step=jnp.zeros((), jnp.int32),
      params=self.params,
      opt_state=optimizer.init(self.params),
      rng=jax.random.key_data(jax.random.key(0)),
    )
    self.params = None  # Donated to the step.
    decoder = Decoder(DecoderConfig.from_record(self.job.decoder))
    self._step = jax.jit(
      train_step.make_train_step(decoder, objective, optimizer),
      donate_argnums=0,
    )
    return {}

  def step(self, batch: int, check: bool = False) -> dict[str, float]:
    """One update; always returns the gradient norm."""
    del check
    assert self._step is not None
    mesh = partitioning.make_mesh(
      partitioning.MeshShape(), jax.local_devices()[:1]
    )
    with partitioning.activate(mesh, partitioning.logical_axis_rules()):
      self.state, metrics = self._step(self.state, self._batches[batch])
    metrics = jax.device_get(jax.block_until_ready((self.state, metrics))[1])
    names = [name for name in metrics if name.startswith("loss")]
    return {
      name: float(metrics[name].host_mean())
      for name in (*names, "gradient_norm")
    }

  def decode(self, **settings: Any) -> dict[str, float]:
    """Generates for the users of a job; see `calrec_decoding`."""
    return self._writer().decode(**settings)

  def read_prompts(self) -> dict[str, float]:
    """Prefills the prompts of a job."""
    return self._writer().read_prompts()

  def _writer(self) -> calrec_decoding.Writer:
    decoder = Decoder(DecoderConfig.from_record(self.job.decoder))
    return calrec_decoding.Writer(self.folder, decoder, self.params)

  def _packed(self, number: int) -> Batch:
    return Batch(**library_job.arrays(self.folder, "packed", number))

  def _rows(self, number: int) -> Batch:
    """Rows of one segment each, with all tokens but the first as labels."""
    tokens = library_job.rows(self.folder, number)
    batch = Batch.empty(*tokens.shape, 1)
    batch.positions[:] = range(tokens.shape[1])
    batch.segment_ids[:] = 1
    batch.loss_weights[:, :-1] = 1
    return batch._replace(tokens=tokens)


@dataclasses.dataclass(frozen=True)
class LanguageModel:
  """The next-token loss alone, with the interface of `Objective`.

  Attributes:
    loss_chunk_tokens: See `Objective`.
  """

  loss_chunk_tokens: int

  def __call__(
    self, decoder: Decoder, params: Any, batch: Batch, **_: Any
  ) -> tuple[jax.Array, dict[str, WeightedSum]]:
    """The mean over all tokens but the first of each row."""
    hidden = decoder.apply(
      {"params": params}, batch.tokens, batch.positions, batch.segment_ids
    )
    nig, _ = next_token_loss(
      decoder,
      params,
      hidden,
      batch.tokens,
      batch.loss_weights,
      chunk_tokens=self.loss_chunk_tokens,
    )
    return nig.mean(), {"loss_nig_nats": nig}
