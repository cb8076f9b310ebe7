"""The mixed objective of CALRec over one packed batch.

    L = (1 - alpha - beta) L_NIG + alpha L_TT + beta L_UT

One forward pass computes all three losses for every target of every row.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import gin
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from calrec_jax.data.feed.batch import NO_SLOT, Batch
from calrec_jax.errors import above, at_least, check, one_of, refuse
from calrec_jax.models import contrastive, two_tower
from calrec_jax.models.decoder import Decoder
from calrec_jax.models.next_token import next_token_loss
from calrec_jax.models.row_objective import RowObjective, Sums


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(RowObjective):
  """Weights and settings of the three losses.

  Attributes:
    alpha: Weight of L_TT, between v_{T|U} and v_T.
    beta: Weight of L_UT, between v_U and v_T; may be negative.
    temperature: Divisor of the cosine similarities.
    direction: Direction of InfoNCE: "item_to_user" (the paper), "user_to_item"
      or "both".
    same_user_negatives: Whether other targets of the same user are negatives.
    loss_chunk_tokens: Positions of a row whose logits are in memory at once.
  """

  METRICS: ClassVar[tuple[str, ...]] = (
    *RowObjective.METRICS,
    *("loss_tt_nats", "loss_ut_nats", "batch_accuracy_tt", "batch_accuracy_ut"),
  )

  alpha: float = 0.125
  beta: float = 0.025
  temperature: float = 0.5
  direction: str = "item_to_user"
  same_user_negatives: bool = False
  loss_chunk_tokens: int = 64

  def __post_init__(self):
    check(
      self,
      temperature=above(0),
      direction=one_of(*contrastive.DIRECTIONS),
      loss_chunk_tokens=at_least(1),
    )
    if self.alpha + self.beta > 1:
      refuse(
        self,
        "alpha",
        f"with beta = {self.beta} the language model has a negative weight; "
        "their sum must be at most 1.",
      )

  @property
  def language_weight(self) -> float:
    """Weight of L_NIG, without the rounding error of alpha + beta."""
    return round(1.0 - self.alpha - self.beta, 12)

  @property
  def compares(self) -> bool:
    """Whether a contrastive loss is part of the objective."""
    return self.alpha != 0 or self.beta != 0

  def sums(
    self,
    model: Decoder,
    params: dict,
    hidden: Float[Array, "R L D"],
    batch: Batch,
    dropout_rng: Array | None,
  ) -> Sums:
    """`loss_nig_nats`, and `token_accuracy` of the next token."""
    del dropout_rng
    if self.language_weight == 0:
      # Reported only: a loss of weight zero would still cost a backward pass.
      params, hidden = jax.lax.stop_gradient((params, hidden))
    nig, accuracy = next_token_loss(
      model,
      params,
      hidden,
      batch.tokens,
      batch.loss_weights,
      chunk_tokens=self.loss_chunk_tokens,
    )
    return {"loss_nig_nats": nig, "token_accuracy": accuracy}

  def vectors(
    self, model: Decoder, hidden: Float[Array, "R L D"], batch: Batch
  ) -> two_tower.TowerEmbeddings:
    """The pooled vectors of every slot."""
    return two_tower.pool(hidden, batch, user_tokens=model.config.user_tokens)

  def compare(self, vectors: two_tower.TowerEmbeddings, batch: Batch) -> Sums:
    """The contrastive losses over all slots of a batch.

    Returns:
      `loss_tt_nats`, `loss_ut_nats`, and `batch_accuracy_tt` and
      `batch_accuracy_ut`, how often the positive is the nearest candidate of
      the batch (which depends on the batch size).
    """
    joint, user, item = (part.reshape(-1, part.shape[-1]) for part in vectors)
    slot_items = batch.slot_items.reshape(-1)
    negative = contrastive.negatives(
      slot_items,
      batch.slot_users.reshape(-1),
      same_user=self.same_user_negatives,
    )
    contrast = functools.partial(
      contrastive.contrastive_loss,
      items=item,
      filled=slot_items != NO_SLOT,
      negative=negative,
      temperature=self.temperature,
      direction=self.direction,
    )
    tt, tt_hits = contrast(joint)
    ut, ut_hits = contrast(user)
    return {
      "loss_tt_nats": tt,
      "loss_ut_nats": ut,
      "batch_accuracy_tt": tt_hits,
      "batch_accuracy_ut": ut_hits,
    }

  def total(self, means: Mapping[str, Any]) -> Array:
    """The loss, given the means of its parts."""
    return self.mix(
      means["loss_nig_nats"], means["loss_tt_nats"], means["loss_ut_nats"]
    )

  def mix(
    self, nig: Array | float, tt: Array | float, ut: Array | float
  ) -> Array:
    """The weighted sum of the three means."""
    return jnp.asarray(
      self.language_weight * nig + self.alpha * tt + self.beta * ut
    )
