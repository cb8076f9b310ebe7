"""Messages made by the thousand are those that TFDS makes one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.seqio import examples

_int64 = st.integers(-(2**63), 2**63 - 1)
_documents = st.lists(
  st.lists(st.tuples(_int64, st.text(max_size=200)), max_size=8),
  min_size=1,
  max_size=6,
)


@pytest.fixture(scope="module")
def serializer():
  from calrec_jax.data.seqio.quiet_tensorflow import tfds

  features = tfds.features.FeaturesDict(
    {
      "numbers": tfds.features.Tensor(shape=(None,), dtype=np.int64),
      "texts": tfds.features.Tensor(shape=(None,), dtype=np.str_),
      "name": tfds.features.Text(),
    }
  )
  from tensorflow_datasets.core import example_serializer

  return example_serializer.ExampleSerializer(features.get_serialized_info())


@given(_documents)
def test_they_say_what_the_serializer_of_tfds_says(serializer, documents):
  values = [value for document in documents for value in document]
  offsets = np.cumsum([0, *map(len, documents)])
  names = [f"é{n}" for n in range(len(documents))]
  rows = np.arange(len(values))[::-1]  # Texts are taken by row.
  made = examples.serialise(
    {
      "numbers": examples.numbers(
        np.array([number for number, _ in values], np.int64), offsets
      ),
      "texts": examples.Texts([text for _, text in values][::-1]).at(
        rows, offsets
      ),
      "name": examples.Texts(names).at(
        np.arange(len(names)), np.arange(len(names) + 1)
      ),
    }
  )
  for name, document, message in zip(
    names, documents, made.to_pylist(), strict=True
  ):
    expected = serializer.get_tf_example(
      {
        "numbers": np.array([n for n, _ in document], np.int64),
        "texts": [text for _, text in document],
        "name": name,
      }
    )
    assert type(expected).FromString(message) == expected
    assert len(message) == expected.ByteSize()


def test_a_text_says_how_many_bytes_it_takes():
  texts = examples.Texts(["", "ab", "é" * 100])
  assert len(texts) == 3
  assert texts.lengths().tolist() == [2, 4, 203]
