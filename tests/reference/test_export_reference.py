"""An exported model, in the hands of Transformers.

The recipe that lies in every export is run as it is, in a process
that knows nothing of this project, and gives our own vectors and logits.
"""

import importlib.util
import json
import pathlib
import subprocess
import sys

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

from calrec_jax.checkpoint import tokenizer_export
from calrec_jax.data.feed import tokenization
from calrec_jax.data.records import PromptTokens
from calrec_jax.models import two_tower
from calrec_jax.models.pretrained import export
from tests.fixtures import model_toys, pretrained_toys, vocabulary_toys

needs_transformers = pytest.mark.skipif(
  not all(map(importlib.util.find_spec, ("torch", "transformers"))),
  reason="torch and transformers are not installed: launch/test.sh "
  "--pretrained",
)
# Sums of float32 in another order, of values near 1.
TOLERANCE = 2e-5
ITEMS = (
  "Title: green tea 12 bags.",
  "Title: soap bar.",
  "Title: café ½ ounce.",
)

_PROGRAM = """
import json, sys, numpy as np, torch
code = open("README.md").read().split("```python")[1].split("```")[0]
exec(code)
items = json.loads(sys.argv[1])
logits = model(torch.tensor([json.loads(sys.argv[2])])).logits
np.savez(
  "answers.npz",
  items=torch.stack([item_vector(text) for text in items]).numpy(),
  history=history_vector(items[:2]).numpy(),
  tokens=json.dumps([item(text) for text in items]),
  logits=logits.detach().numpy(),
)
"""


@needs_transformers
@pytest.mark.parametrize(
  ("family", "user_tokens"), [("gemma", None), ("llama", 3)]
)
def test_the_recipe_in_an_export_gives_our_vectors(
  tmp_path, family, user_tokens
):
  model = vocabulary_toys.sentencepiece_model()
  tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model)
  decoder, params = model_toys.decoder(
    **pretrained_toys.FAMILIES[family],
    vocab_size=tokenizer.vocab_size(),
    user_tokens=user_tokens,
  )
  prompt = PromptTokens(
    begin=2,
    end=tokenizer.encode("\n")[0],
    prefix=tuple(tokenizer.encode("green tea\n")),
    first=tuple(tokenizer.encode("rice\n")),
    next=tuple(tokenizer.encode("soap bar\n")),
  )
  folder = _write(tmp_path / "out", decoder.config, params, prompt, model)
  texts = [np.array([*tokenizer.encode(t), prompt.end]) for t in ITEMS]
  history = tokenization.prompt_tokens(prompt, texts[:2])
  answers = _run(folder, history.tolist())
  assert json.loads(str(answers["tokens"])) == [t.tolist() for t in texts]
  segments = [tokenization.item_segment_tokens(prompt, t) for t in texts]
  ours = two_tower.embed_items(decoder, params, *_padded(segments), begins=True)
  np.testing.assert_allclose(
    answers["items"], two_tower.normalise(ours), atol=TOLERANCE
  )
  ours = two_tower.embed_users(decoder, params, *_padded([history]))
  np.testing.assert_allclose(
    answers["history"][None], two_tower.normalise(ours), atol=TOLERANCE
  )
  np.testing.assert_allclose(
    answers["logits"],
    _logits(decoder, params, history),
    atol=10 * TOLERANCE,
  )


def _write(folder, config, params, prompt, model):
  record = {
    "begin": prompt.begin,
    "end": prompt.end,
    "prefix": list(prompt.prefix),
    "first": list(prompt.first),
    "next": list(prompt.next),
  }
  settings = {
    "tokenizer_class": "GemmaTokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
  }
  files, _ = tokenizer_export.collect(
    pathlib.Path("nowhere"), {"prompt": record}, None
  )
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  return export.write_folder(
    folder,
    config,
    lambda path: np.asarray(flat[path]),
    special={"bos": 2, "eos": 1, "pad": 0},
    files=[
      *files,
      ("tokenizer.model", model),
      ("tokenizer_config.json", json.dumps(settings).encode()),
    ],
  )


def _run(folder, history):
  result = subprocess.run(
    [sys.executable, "-c", _PROGRAM, json.dumps(ITEMS), json.dumps(history)],
    cwd=folder,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr[-2000:]
  return np.load(folder / "answers.npz")


def _padded(sequences):
  longest = max(map(len, sequences))
  tokens = np.zeros((len(sequences), longest), np.int32)
  for row, sequence in enumerate(sequences):
    tokens[row, : len(sequence)] = sequence
  return jnp.asarray(tokens), jnp.asarray([len(s) for s in sequences])


def _logits(decoder, params, tokens):
  tokens = jnp.asarray(tokens)[None]
  positions = jnp.arange(tokens.shape[1])[None]
  hidden = decoder.apply(
    {"params": params}, tokens, positions, jnp.ones_like(tokens)
  )
  return decoder.apply({"params": params}, hidden, method="logits")
