"""Eight devices recommend what one does."""

import re

import numpy as np
import pytest

from calrec_jax.recommend import candidates, prefix, prompts
from calrec_jax.recommend.constrain import constrained, trie, walk
from calrec_jax.recommend.dense import dense
from calrec_jax.recommend.generate import generate, sampling
from calrec_jax.runtime import partitioning, placement
from tests.fixtures import recommend_toys as toys

SCORE_TOLERANCE = 1e-5
LIMITS = prompts.PromptLimits(max_tokens=96, smallest_length=96)


def activated():
  """Rows over four devices, layers over two."""
  mesh = partitioning.make_mesh(partitioning.MeshShape(data=4, tensor=2))
  return partitioning.activate(mesh, partitioning.logical_axis_rules())


def test_dense():
  histories = toys.histories()

  def rankings():
    model = dense.Dense(
      toys.domain_model(limits=LIMITS),
      settings=dense.DenseSearch(user_rows=6, item_rows=8, chunk=4),
    )
    return model.recommend(histories, depth=24, rules=candidates.RULES)

  single = rankings()
  with activated():
    spread = rankings()
  for rule in candidates.RULES:
    for user in range(len(histories)):
      # Nearly equal scores may swap places, so compare item by item.
      one, many = (
        dict(zip(r[rule].items[user], r[rule].scores[user], strict=True))
        for r in (single, spread)
      )
      assert set(one) == set(many)
      for item in set(one) - {-1}:
        assert abs(one[item] - many[item]) < SCORE_TOLERANCE


def test_generate():
  histories = toys.histories()

  def texts():
    model = generate.GenerateAndGround(
      toys.domain_model(limits=LIMITS),
      toys.Vocabulary(),
      sampler=sampling.Sampler(samples=3, temperature=3.0, rows=4),
    )
    return model.write(histories)

  single = texts()
  with activated():
    spread = texts()
  for one, many in zip(single, spread, strict=True):
    assert [text.text for text in one] == [text.text for text in many]
    np.testing.assert_allclose(
      [text.log_prob for text in one],
      [text.log_prob for text in many],
      rtol=1e-4,
    )


@pytest.mark.slow
@pytest.mark.parametrize("search", ["beams", "samples"])
def test_constrained(search):
  histories = toys.histories()
  settings = constrained.Constrained(
    search=search, hypotheses=4, score="sum", temperature=3.0, rows=2
  )

  def items():
    model = constrained.ConstrainedItems(
      toys.domain_model(limits=LIMITS),
      settings=settings,
    )
    return model.write(histories)

  single = items()
  with activated():
    spread = items()
  for one, many in zip(single, spread, strict=True):
    np.testing.assert_array_equal(one.texts, many.texts)
    np.testing.assert_array_equal(one.hypotheses, many.hypotheses)
    np.testing.assert_allclose(one.scores, many.scores, rtol=1e-4)


@pytest.mark.slow
def test_a_walk_keeps_its_tree_where_the_prompts_are():
  module, params = toys.decoder()
  items = toys.catalogue()
  built = trie.build(
    trie.Texts(items.values, items.offsets).take(np.unique(items.text_rows))
  )
  bounds = walk.bounds(built, 3, beams=True)._replace(tree_tokens=23)
  mesh = partitioning.make_mesh(partitioning.MeshShape(data=4, tensor=2))
  with partitioning.activate(mesh, partitioning.logical_axis_rules()):
    tokens, lengths = placement.place(
      (np.ones((16, 64), np.int32), np.full(16, 50, np.int32)), mesh
    )
    compiled = walk.walk.lower(
      module,
      params,
      prefix.read(module, params, tokens, lengths),
      built.on_device(),
      None,
      bounds=bounds,
      hypotheses=3,
      mesh=mesh,
    ).compile()
  text = compiled.as_text()
  # Keys of the tree, [layers, B, N, K, F]: B over 4, K over 2 devices.
  assert "f32[2,4,23,1,4]" in text
  assert "f32[2,16,23" not in text
  gathered = set(re.findall(r"= (\w+\[[\d,]*\])\S* all-gather\(", text))
  assert not {shape for shape in gathered if shape.count(",") > 2}


def test_only_the_samples_are_gathered():
  module, params = toys.decoder()
  prompts_count, samples, steps, length = 16, 3, 7, 64
  mesh = partitioning.make_mesh(partitioning.MeshShape(data=4, tensor=2))
  rows = partitioning.activate(mesh, partitioning.logical_axis_rules())
  with rows:
    arrays = placement.place(
      (
        np.ones((prompts_count, length), np.int32),
        np.full(prompts_count, 50, np.int32),
        np.zeros((prompts_count, samples, steps), np.float32),
      ),
      mesh,
    )
    compiled = sampling.sample.lower(
      module,
      params,
      *arrays,
      temperature=1.0,
      end_token=toys.END,
      vocab_size=toys.VOCAB,
      mesh=mesh,
    ).compile()
  text = compiled.as_text()
  # Keys of the samples, [layers, B, G, T, K, F]: B over 4, K over 2 devices.
  assert "f32[2,4,3,7,1,4]" in text
  assert "f32[2,16,3,7" not in text
  gathered = re.findall(r"= (\w+\[[\d,]*\])\S* all-gather\(", text)
  # A device's own rows: their chances add up over the vocabulary, which may be
  # split over the tensor axis.
  chances = [shape for shape in gathered if shape.startswith("f32[4,3,")]
  assert len(chances) <= 1
  assert sorted(set(gathered) - set(chances)) == [
    "f32[16,3]",
    "pred[16,3]",
    "s32[16,3,7]",
    "s32[16,3]",
  ]
