"""Vectors on disk are those that would be computed, or are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tqdm
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from calrec_jax.recommend import candidates, prompts
from calrec_jax.recommend.dense import dense, vector_identity, vector_store
from calrec_jax.recommend.dense.vector_store import VectorPlace, VectorsError
from calrec_jax.storage import blocks
from calrec_jax.storage.blocks import Shard
from tests.fixtures import recommend_toys as toys

pytestmark = pytest.mark.heavy

LIMITS = prompts.PromptLimits(max_tokens=96, smallest_length=96)
ALONE = Shard()
CHECKPOINT = {"stage": "target", "checkpoint": "checkpoint_7"}


def place(folder, **changes):
  return VectorPlace(
    folder=folder, domain="shop", checkpoint=CHECKPOINT, **changes
  )


def recommender(where, *, seed=0, catalogue=None, **settings):
  settings = {"user_rows": 4, "item_rows": 8, "block": 8, **settings}
  return dense.Dense(
    toys.domain_model(seed, catalogue, limits=LIMITS),
    settings=dense.DenseSearch(**settings),
    place=where,
  )


def encoded(monkeypatch):
  """Item batches that are encoded from here on, by their shapes."""
  shapes = []
  embed = dense.embed_rows

  def counted(decoder, params, tokens, lengths, *, tower, **options):
    if tower == "item":
      shapes.append(tokens.shape)
    return embed(decoder, params, tokens, lengths, tower=tower, **options)

  monkeypatch.setattr(dense, "embed_rows", counted)
  return shapes


def ranking(model):
  return model.recommend(toys.histories(), depth=24, rules=candidates.RULES)


def assert_same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def files(folder):
  return sorted(str(p.relative_to(folder)) for p in folder.rglob("*.npy"))


def test_what_is_saved_ranks_as_what_is_in_memory(tmp_path, monkeypatch):
  shapes = encoded(monkeypatch)
  wanted = ranking(recommender(None))
  assert len(shapes) == 3  # 22 texts.
  assert_same(ranking(recommender(place(tmp_path))), wanted)
  assert len(shapes) == 6
  assert_same(ranking(recommender(place(tmp_path))), wanted)
  assert len(shapes) == 6  # Read, not encoded.
  [folder] = tmp_path.iterdir()
  assert folder.name.startswith("shop-")
  assert files(folder) == ["000000000.npy", "000000008.npy", "000000016.npy"]
  assert not list(folder.glob(".*"))


def test_a_killed_job_resumes_at_its_block(tmp_path, monkeypatch):
  wanted = ranking(recommender(None))
  write = vector_store.CatalogueVectors._write

  def die(self, number, vectors):
    if number == 2:
      raise KeyboardInterrupt
    write(self, number, vectors)

  with monkeypatch.context() as patch:
    patch.setattr(vector_store.CatalogueVectors, "_write", die)
    with pytest.raises(KeyboardInterrupt):
      recommender(place(tmp_path))
  assert len(files(tmp_path)) == 2
  shapes = encoded(monkeypatch)
  assert_same(ranking(recommender(place(tmp_path))), wanted)
  assert len(shapes) == 1


def vectors_of(folder, count=50, block=8):
  return vector_store.CatalogueVectors(
    folder, {"checkpoint": CHECKPOINT}, count, block
  )


def numbers(block):
  return np.arange(block.start, block.stop, dtype=np.float32)[:, None] * [1, -1]


def complete(vectors, shard=ALONE, encode=numbers):
  with tqdm.tqdm(total=vectors.count, disable=True) as bar:
    vectors.complete(encode, shard=shard, together=False, bar=bar)


def test_any_slice_is_read_across_files(tmp_path):
  vectors = vectors_of(tmp_path)
  complete(vectors)
  whole = numbers(slice(0, 50))
  assert vectors.shape == (50, 2)
  for start, stop in ((0, 50), (0, 8), (3, 5), (7, 9), (20, 49), (48, 99)):
    np.testing.assert_array_equal(vectors[start:stop], whole[start:stop])
  assert vectors[60:70].shape == (0, 2)


def test_processes_divide_the_blocks_and_never_wait(tmp_path):
  """The second process starts in the midst of the first one's second block."""
  done = {0: [], 1: []}

  def first(block):
    done[0].append(block.start // 8)
    if len(done[0]) == 2:
      complete(vectors_of(tmp_path), Shard(1, 2), second)
    return numbers(block)

  def second(block):
    done[1].append(block.start // 8)
    return numbers(block)

  vectors = vectors_of(tmp_path)
  complete(vectors, Shard(0, 2), first)
  # Each its own shard, then the rest: also the block that 0 is still at.
  assert done == {0: [0, 2], 1: [1, 3, 5, 4, 2, 6]}
  np.testing.assert_array_equal(vectors[:], numbers(slice(0, 50)))


def test_another_model_has_another_folder_or_is_refused(tmp_path):
  recommender(place(tmp_path / "beside"))
  recommender(place(tmp_path / "beside"), seed=1)
  recommender(place(tmp_path / "beside"), item_rows=4)
  assert len(list((tmp_path / "beside").iterdir())) == 3
  chosen = {"vectors_folder": str(tmp_path / "chosen")}
  one = ranking(recommender(place(tmp_path), **chosen))
  assert files(tmp_path / "chosen")[0] == "shop/000000000.npy"
  assert_same(ranking(recommender(place(tmp_path), **chosen)), one)
  with pytest.raises(VectorsError, match=r"parameters: was '\w+'") as caught:
    recommender(place(tmp_path), seed=1, **chosen)
  for said in ("target/checkpoint_7", "vectors_folder", "chosen/shop"):
    assert said in str(caught.value)
  with pytest.raises(VectorsError, match=r"catalogue\.tokens_sha256"):
    recommender(place(tmp_path), catalogue=toys.catalogue(seed=5), **chosen)
  other = VectorPlace(
    folder=tmp_path, domain="shop", checkpoint={"stage": "joint"}
  )
  with pytest.raises(VectorsError, match=r"checkpoint\.stage: was 'target'"):
    recommender(other, **chosen)


def test_what_cannot_be_read_is_named(tmp_path):
  vectors = vectors_of(tmp_path)
  complete(vectors)
  path = vectors.path(3)
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(VectorsError, match=r"000000024\.npy cannot be read"):
    vectors_of(tmp_path)[:]
  np.save(path, np.zeros((3, 2), np.float32))
  with pytest.raises(VectorsError, match="its block has 8 texts"):
    vectors_of(tmp_path)[:]
  (tmp_path / blocks.IDENTITY_FILE).write_text("{")
  with pytest.raises(VectorsError, match=r"identity\.json cannot be read"):
    vectors_of(tmp_path)
  (tmp_path / blocks.IDENTITY_FILE).unlink()
  with pytest.raises(VectorsError, match="says what they were made from"):
    vectors_of(tmp_path)


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(VectorsError, match=r"DenseSearch\.vectors_folder"):
    vectors_of(tmp_path / "file" / "vectors")


def test_vectors_that_are_no_numbers_are_not_saved(tmp_path):
  vectors = vectors_of(tmp_path)
  with pytest.raises(VectorsError, match="NaN"):
    complete(vectors, encode=lambda block: numbers(block) * np.nan)
  assert not files(tmp_path)


def test_the_digest_of_parameters_is_that_of_every_mesh_and_of_no_other():
  params = {
    "kernel": jnp.arange(48.0).reshape(8, 6),
    "half": jnp.arange(16, dtype=jnp.bfloat16),
  }
  digest = vector_identity.params_digest(params)
  mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
  for spec in (
    PartitionSpec("a"),
    PartitionSpec("b"),
    PartitionSpec(("a", "b")),
  ):
    spread = jax.device_put(params, NamedSharding(mesh, spec))
    assert vector_identity.params_digest(spread) == digest
  kernel, half = params["kernel"], params["half"]
  others = [
    {**params, "kernel": kernel.at[3, 2].add(1e-5)},
    {**params, "kernel": kernel[::-1]},
    {**params, "kernel": kernel.reshape(6, 8)},
    {**params, "kernel": kernel.at[0, 0].set(-0.0)},
    {**params, "half": half.astype(jnp.float32)},
    {"other": kernel, "half": half},
  ]
  digests = {vector_identity.params_digest(other) for other in others}
  assert len(digests | {digest}) == 1 + len(others)
