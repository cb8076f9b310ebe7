"""Byte-level BPE under SeqIO: as without TensorFlow, and checkpointable."""

import pytest

from calrec_jax.data.seqio import vocabulary as seqio_vocabulary
from calrec_jax.data.seqio.quiet_tensorflow import seqio, tf
from calrec_jax.data.vocabulary import files
from tests.fixtures import vocabulary_toys as toys

TEXTS = [*toys.texts(20, seed=1), "", "字 ☕"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
  content = toys.byte_bpe().to_str().encode()
  return files.write(
    str(tmp_path_factory.mktemp("v") / "v"),
    content,
    1,
    kind=files.BYTE_BPE,
    origin=files.Origin(400, "0" * 64),
  )


@pytest.fixture(scope="module")
def pieces(vocabulary):
  return seqio_vocabulary.for_tasks(vocabulary)


def test_texts_and_lists_of_texts(pieces, vocabulary):
  assert pieces.vocab_size == vocabulary.size
  assert (pieces.bos_id, pieces.eos_id, pieces.unk_id) == (1, None, None)
  expected = vocabulary.encode_all(TEXTS)
  assert pieces.encode_tf(tf.constant(TEXTS)).to_list() == expected
  for text, ids in zip(TEXTS, expected, strict=True):
    assert pieces.encode(text) == ids
    assert pieces.decode(ids) == text
    assert pieces.encode_tf(tf.constant(text)).numpy().tolist() == ids
    if ids:
      assert pieces.decode_tf(tf.constant(ids)).numpy().decode() == text
  decoded = pieces.decode_tf(tf.ragged.constant(expected, tf.int32)).numpy()
  assert [text.decode() for text in decoded] == TEXTS


def test_equal_tokenizers_are_equal(pieces, vocabulary):
  again = seqio_vocabulary.for_tasks(files.load(vocabulary.folder))
  assert again == pieces
  assert hash(again) == hash(pieces)
  assert pieces != seqio.PassThroughVocabulary(10)


def test_an_iterator_of_a_task_can_be_checkpointed(pieces, tmp_path):
  seqio.TaskRegistry.add(
    "tokenised_texts",
    source=seqio.FunctionDataSource(
      lambda split, shuffle_files, seed=None: (
        tf.data.Dataset.from_tensor_slices({"targets": TEXTS})
      ),
      splits=("train",),
    ),
    preprocessors=[seqio.preprocessors.tokenize],
    output_features={"targets": seqio.Feature(pieces, add_eos=False)},
  )
  try:
    task = seqio.get_mixture_or_task("tokenised_texts")

    def start():
      return iter(task.get_dataset(None, split="train", shuffle=False))

    def take(iterator, count):
      return [next(iterator)["targets"].numpy().tolist() for _ in range(count)]

    iterator = start()
    take(iterator, 7)
    path = tf.train.Checkpoint(iterator).write(str(tmp_path / "state"))
    expected = take(iterator, 8)
    fresh = start()
    tf.train.Checkpoint(fresh).read(path).assert_consumed()
    assert take(fresh, 8) == expected
    assert len({tuple(ids) for ids in expected}) == 8
  finally:
    seqio.TaskRegistry.remove("tokenised_texts")
