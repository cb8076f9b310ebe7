"""Eight devices recommend what one does."""

import numpy as np
import recommend_toys as toys

from calrec_jax import partitioning
from calrec_jax.recommend import dense, generate, prompts, protocol, sampling

SCORE_TOLERANCE = 1e-5
LIMITS = prompts.PromptLimits(max_tokens=96, smallest_length=96)


def activated():
  """Rows over four devices, layers over two."""
  mesh = partitioning.make_mesh(partitioning.MeshShape(data=4, tensor=2))
  return partitioning.activate(mesh, partitioning.logical_axis_rules())


def test_dense():
  module, params = toys.decoder()
  histories = toys.histories()

  def rankings():
    model = dense.Dense(
      module,
      params,
      toys.catalogue(),
      toys.PROMPT,
      settings=dense.DenseSearch(user_rows=6, item_rows=8, chunk=4),
      limits=LIMITS,
    )
    return model.recommend(histories, depth=24, rules=protocol.RULES)

  single = rankings()
  with activated():
    spread = rankings()
  for rule in protocol.RULES:
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
  module, params = toys.decoder()
  histories = toys.histories()

  def texts():
    model = generate.GenerateAndGround(
      module,
      params,
      toys.catalogue(),
      toys.PROMPT,
      toys.Vocabulary(),
      sampler=sampling.Sampler(samples=3, temperature=3.0, rows=4),
      limits=LIMITS,
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
