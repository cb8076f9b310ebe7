"""Transformers' and PyTorch's side of `against_transformers`.

A typical hand-written implementation: one target per row, padded to the
longest, and a second pass for the items. It uses PyTorch's fused attention and
fused AdamW, and computes logits at target positions only.
"""

from __future__ import annotations

import contextlib
import pathlib
import types
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers

from benchmarks import library_job


class Library:
  """See `library_process.Library`."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.job = library_job.read(folder)
    self.model: Any = None
    self._optimizer: Any = None
    self._losses: Any = None
    self._batches: list[Any] = []

  def load(self, source: str, cut: bool = True) -> dict[str, Any]:
    """Reads a folder or a GGUF file.

    Args:
      source: Path of the model.
      cut: Whether to prune the vocabulary to the job's.
    """
    path = pathlib.Path(source)
    given = {"gguf_file": path.name} if path.is_file() else {}
    self.model = transformers.AutoModelForCausalLM.from_pretrained(
      path.parent if given else path, dtype=torch.float32, **given
    )
    row_map = library_job.row_map(self.folder) if cut else None
    if row_map is not None:
      self._cut(torch.from_numpy(row_map.astype("int64")))
    self.model.to(self.job.device)
    count = sum(parameter.numel() for parameter in self.model.parameters())
    return {"parameters": count}

  def begin(self, part: str) -> dict[str, Any]:
    """Creates the optimizer and reads the batches."""
    self.model.train()
    self._optimizer = torch.optim.AdamW(
      self.model.parameters(),
      lr=self.job.learning_rate,
      weight_decay=library_job.WEIGHT_DECAY,
      fused=True,
    )
    numbers = range(self.job.batches)
    if part == "language_model":
      self._losses = self._language_model
      self._batches = [
        self._tensor(library_job.rows(self.folder, number))
        for number in numbers
      ]
    else:
      self._losses = self._objective
      self._batches = [
        {
          name: self._tensor(array)
          for name, array in library_job.arrays(
            self.folder, "plain", number
          ).items()
        }
        for number in numbers
      ]
    return {}

  def step(self, batch: int, check: bool = False) -> dict[str, float]:
    """One update."""
    self._optimizer.zero_grad(set_to_none=True)
    with self._precision():
      losses = self._losses(self._batches[batch])
    losses["loss"].backward()
    found = {name: float(loss.detach()) for name, loss in losses.items()}
    if check:
      found["gradient_norm"] = float(
        torch.nn.utils.get_total_norm(
          [parameter.grad for parameter in self.model.parameters()]
        )
      )
    self._optimizer.step()
    if self.job.device == "cuda":
      torch.cuda.synchronize()
    return found

  @torch.no_grad()
  def decode(
    self, form: str, samples: int, tokens: int, temperature: float
  ) -> dict[str, float]:
    """Generates for the users of a job one by one, by the library's method."""
    del form
    self.model.eval()
    with np.load(self.folder / "prompts-0.npz") as file:
      prompts = np.split(file["values"], file["offsets"][1:-1])
    found = []
    for prompt in prompts:
      prompt_ids = self._tensor(prompt)[None]
      written = self.model.generate(
        input_ids=prompt_ids,
        attention_mask=torch.ones_like(prompt_ids),
        do_sample=True,
        temperature=temperature,
        # Overrides restrictions in the model's own settings.
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        num_return_sequences=samples,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        eos_token_id=None,
        pad_token_id=0,
      )
      found.append(written[:, prompt_ids.shape[1] :].cpu().numpy())
    items = library_job.arrays(self.folder, "items", 0)
    return library_job.statistics(
      np.stack(found).astype(np.int32), types.SimpleNamespace(**items)
    )

  def _language_model(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """The loss of the library's own model class."""
    loss = self.model(input_ids=tokens, labels=tokens, use_cache=False).loss
    return {"loss": loss, "loss_nig_nats": loss}

  def _objective(
    self, batch: dict[str, torch.Tensor]
  ) -> dict[str, torch.Tensor]:
    hidden = self._hidden(batch["tokens"], batch["segment_ids"])
    filled = batch["segment_ids"] > 0
    alone = self._hidden(batch["item_tokens"], batch["item_segment_ids"])
    joint = _mean(hidden, batch["in_target"])
    user = _mean(hidden, filled & ~batch["in_target"])
    item = _mean(alone, batch["in_item"])
    queries = batch["queries"][..., None].expand(-1, -1, hidden.shape[-1])
    logits = self.model.lm_head(hidden.gather(1, queries))
    weights = batch["label_weights"]
    nats = F.cross_entropy(
      logits.flatten(0, 1).float(), batch["labels"].flatten(), reduction="none"
    )
    nig = (nats * weights.flatten()).sum() / weights.sum()
    compared = self._compared(batch)
    tt = self._info_nce(joint, item, compared)
    ut = self._info_nce(user, item, compared)
    settings = self.job.objective
    alpha, beta = settings["alpha"], settings["beta"]
    return {
      "loss": (1 - alpha - beta) * nig + alpha * tt + beta * ut,
      "loss_nig_nats": nig,
      "loss_tt_nats": tt,
      "loss_ut_nats": ut,
    }

  def _hidden(
    self, tokens: torch.Tensor, segments: torch.Tensor
  ) -> torch.Tensor:
    return self.model.model(
      input_ids=tokens, attention_mask=(segments > 0).long(), use_cache=False
    ).last_hidden_state

  def _compared(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    items, users = batch["slot_items"], batch["slot_users"]
    other = items[:, None] != items[None]
    if not self.job.objective["same_user_negatives"]:
      other &= users[:, None] != users[None]
    return other | torch.eye(len(items), dtype=torch.bool, device=other.device)

  def _info_nce(
    self, queries: torch.Tensor, items: torch.Tensor, compared: torch.Tensor
  ) -> torch.Tensor:
    """InfoNCE; row i has the candidates of anchor item i."""
    queries, items = F.normalize(queries, dim=-1), F.normalize(items, dim=-1)
    with torch.autocast(self.job.device, enabled=False):
      cosine = items @ queries.T
    cosine = cosine / self.job.objective["temperature"]
    logits = cosine.masked_fill(~compared, float("-inf"))
    axes = {"item_to_user": (1,), "user_to_item": (0,), "both": (0, 1)}
    sums = [
      -logits.log_softmax(dim=axis).diagonal().mean()
      for axis in axes[self.job.objective["direction"]]
    ]
    return torch.stack(sums).mean()

  def _cut(self, row_map: torch.Tensor) -> None:
    """Prunes the vocabulary to some rows."""
    tied = self.model.config.tie_word_embeddings
    modules = [self.model.get_input_embeddings()]
    if not tied:
      modules.append(self.model.get_output_embeddings())
    for module in modules:
      rows = module.weight.detach()[row_map].clone()
      module.weight = torch.nn.Parameter(rows)
    # The id now belongs to another row.
    modules[0].padding_idx = None
    modules[0].num_embeddings = len(row_map)
    self.model.config.vocab_size = self.model.vocab_size = len(row_map)
    if tied:
      self.model.tie_weights()

  def _precision(self) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(
      self.job.device,
      dtype=torch.bfloat16,
      enabled=self.job.precision == "bfloat16",
    )

  def _tensor(self, array: Any) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    if tensor.dtype == torch.int32:
      tensor = tensor.long()
    return tensor.to(self.job.device)


def _mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
  """Mean over the masked positions, float32."""
  weights = mask[..., None].float()
  return (hidden.float() * weights).sum(1) / weights.sum(1)
