"""Two processes with one mesh encode a catalogue together, and rank alike."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

TESTS = pathlib.Path(__file__).parents[1]
SCORE_TOLERANCE = 1e-5


def rank(folder: str, spread: bool) -> dict:
  """The lists of one process; run in each of them, and alone."""
  import jax
  from jax.sharding import NamedSharding, PartitionSpec

  from calrec_jax.recommend import prompts
  from calrec_jax.recommend.dense import dense, vector_store
  from calrec_jax.runtime import partitioning, placement
  from tests.fixtures import recommend_toys as toys

  module, params = toys.decoder()
  mesh = None
  if spread:
    mesh = partitioning.make_mesh(partitioning.MeshShape(data=4))
    assert placement.spans_processes(mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(
      lambda leaf: jax.make_array_from_callback(
        leaf.shape, everywhere, lambda index: np.asarray(leaf)[index]
      ),
      params,
    )
  model = dense.Dense(
    toys.domain_model(
      decoder=module,
      params=params,
      limits=prompts.PromptLimits(max_tokens=96, smallest_length=96),
      mesh=mesh,
    ),
    settings=dense.DenseSearch(user_rows=4, item_rows=8, block=8, chunk=4),
    place=vector_store.VectorPlace(
      folder=pathlib.Path(folder), domain="shop", checkpoint={}
    ),
  )
  ranking = model.recommend(toys.histories(), depth=9, rules=["all"])["all"]
  return {"items": ranking.items.tolist(), "scores": ranking.scores.tolist()}


def main(index: str, address: str, folder: str) -> None:
  import jax

  jax.distributed.initialize(address, 2, int(index))
  print(json.dumps(rank(folder, spread=True)))


@pytest.mark.slow
def test_processes_of_one_mesh_work_together(tmp_path):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  environment = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    # Otherwise as here, or the toy's parameters round otherwise.
    "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=2"),
    "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
  }
  processes = [
    subprocess.Popen(
      [sys.executable, __file__, str(index), address, str(tmp_path / "both")],
      stdout=subprocess.PIPE,
      text=True,
      env=environment,
    )
    for index in range(2)
  ]
  outputs = [process.communicate(timeout=600)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0]
  first, second = (json.loads(o.strip().splitlines()[-1]) for o in outputs)
  assert first == second
  alone = rank(str(tmp_path / "alone"), spread=False)
  assert first["items"] == alone["items"]
  np.testing.assert_allclose(
    first["scores"], alone["scores"], atol=SCORE_TOLERANCE
  )
  names = [
    sorted(path.name for path in (tmp_path / folder).rglob("*.npy"))
    for folder in ("both", "alone")
  ]
  assert names[0] == names[1]
  # The same parameters on another mesh are the same identity.
  assert len({p.name for p in tmp_path.glob("*/shop-*")}) == 1


if __name__ == "__main__":
  main(*sys.argv[1:])
