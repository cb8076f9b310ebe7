"""Whether a vocabulary is the one that a published model was trained with.

Two models' embeddings may both have a row for every id; a model that starts
from rows of other tokens trains without an error, from nonsense. Tested by
`tests/unit/models/pretrained/test_model_vocabulary.py`.
"""

from calrec_jax.data.vocabulary import files, pretrained
from calrec_jax.data.vocabulary.files import Vocabulary
from calrec_jax.models.pretrained.sources import Source
from calrec_jax.weights.packages import WeightsError

# Fraction of tokens; files of the same model name unused tokens differently.
_OTHER_NAMES = 0.1


def difference(source: Source, vocabulary: Vocabulary) -> str:
  """Describes how a vocabulary differs from a published model's.

  Args:
    source: Model whose rows are to be read.
    vocabulary: Vocabulary, full or pruned, of this model or another.

  Returns:
    A clause for an error message; empty if the vocabulary is the model's. For a
    model without a tokenizer file only the number of rows is checked.
  """
  # An embedding may have more rows than its vocabulary has tokens.
  if vocabulary.full_size > source.num_tokens:
    return (
      f"Dataset.vocabulary was taken from one of {vocabulary.full_size:,} "
      f"tokens, where the model has {source.num_tokens:,} rows"
    )
  try:
    full = pretrained.read(source.path)
  except WeightsError:
    return ""
  model = files.open_model(full.kind, full.content)
  row_map = vocabulary.row_map
  rows = range(vocabulary.size) if row_map is None else row_map
  others = [
    token
    for token, row in enumerate(rows)
    if row >= model.size or vocabulary.piece(token) != model.piece(int(row))
  ]
  if len(others) <= _OTHER_NAMES * vocabulary.size:
    return ""
  token = others[len(others) // 2]
  row = int(rows[token])
  meant = repr(model.piece(row)) if row < model.size else "no token"
  return (
    f"Dataset.vocabulary is another's: row {row:,} of the table is {meant}, "
    f"and would be read for {vocabulary.piece(token)!r}"
  )
