"""Blocks, shards, and files that never mix two settings."""

import json
import random

import pytest

from calrec_jax.storage.blocks import BlocksError, BlockStore, Job, Shard


def test_blocks_hold_every_user_once():
  blocks = Job(block_users=4).blocks(10)
  assert [list(range(10))[block] for block in blocks] == [
    [0, 1, 2, 3],
    [4, 5, 6, 7],
    [8, 9],
  ]
  assert Job(block_users=10).blocks(10) == [slice(0, 10)]
  with pytest.raises(ValueError, match=r"Job\.block_users"):
    Job(block_users=0)


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/b", "1/", "0/0"])
def test_a_wrong_shard_is_refused(text):
  with pytest.raises(ValueError, match="--shard=0/4"):
    Shard.parse(text)


def test_a_shard_is_read():
  assert Shard.parse("0/1") == Shard()
  assert Shard.parse("3/4") == Shard(3, 4)


@pytest.mark.parametrize("seed", range(5))
def test_any_processes_do_everything_and_own_blocks_first(seed):
  # One of them dies, and each takes another time for a block.
  draw = random.Random(seed)
  missing, shards = list(range(17)), [Shard(i, 3) for i in range(3)]
  dead, done = draw.choice(shards), {shard: [] for shard in shards}
  while missing:
    shard = draw.choice([shard for shard in shards if shard != dead])
    block = shard.choose(missing)
    missing.remove(block)
    done[shard].append(block)
  assert sorted(block for blocks in done.values() for block in blocks) == list(
    range(17)
  )
  for shard, blocks in done.items():
    own = [block % 3 == shard.index for block in blocks]
    assert own == sorted(own, reverse=True)


def test_helpers_take_different_blocks_of_others():
  missing = [0, 3, 6, 9, 12]  # Of process 0.
  assert [Shard(index, 3).choose(missing) for index in (1, 2)] == [9, 6]
  assert Shard(0, 3).choose(missing) == 0
  assert Shard(2, 3).choose([4]) == 4


def store(root, **made_by):
  return BlockStore.under(root, made_by, Job(block_users=2).blocks(5))


def write(path):
  with open(path, "w") as file:
    file.write("answers")


def test_files_appear_under_their_first_user(tmp_path):
  found = store(tmp_path, temperature=0.5)
  assert found.missing() == [0, 1, 2]
  found.write(1, write)
  assert found.missing() == [0, 2]
  assert store(tmp_path, temperature=0.5).missing() == [0, 2]
  assert sorted(path.name for path in found.folder.iterdir()) == [
    "000000002.parquet",
    "identity.json",
  ]
  assert json.loads((found.folder / "identity.json").read_text()) == {
    "temperature": 0.5
  }


def test_a_failing_write_leaves_no_block(tmp_path):
  def fail(path):
    write(path)
    raise OSError("disk full")

  found = store(tmp_path)
  with pytest.raises(OSError, match="disk full"):
    found.write(0, fail)
  assert found.missing() == [0, 1, 2]


def test_other_settings_are_not_used_and_named(tmp_path):
  before = store(tmp_path, samples=4, checkpoint={"step": 40})
  before.write(0, write)
  now = store(tmp_path, samples=4, checkpoint={"step": 60})
  assert now.missing() == [0, 1, 2]
  [line] = now.changes()
  assert "not used: checkpoint.step: was 40, is 60" in line
  now.write(2, write)
  now.remove_others()
  assert now.missing() == [0, 1]
  assert now.changes() == []
  assert before.missing() == [0, 1, 2]


def test_settings_that_json_has_not_are_compared_as_text(tmp_path):
  before = store(tmp_path, folder=tmp_path, cutoffs=(1, 5))
  before.write(0, write)
  assert store(tmp_path, folder=tmp_path, cutoffs=(1, 5)).missing() == [1, 2]
  [line] = store(tmp_path, folder=tmp_path, cutoffs=(1,)).changes()
  assert line.endswith("not used: cutoffs: was [1, 5], is [1]")


def test_work_ends_when_nothing_is_missing(tmp_path):
  done, finished = [], []
  work = store(tmp_path)
  other = store(tmp_path)
  for block in work.unfinished(Shard(0, 2), done.append):
    finished.append(block)
    work.write(block, write)
    if block == 0:
      other.write(1, write)
  assert finished == [0, 2]
  assert done == [0, 4, 5]
  assert work.entries() == 5


def test_a_folder_of_a_fixed_name_refuses_other_work(tmp_path):
  blocks = Job(block_users=2).blocks(5)
  folder = tmp_path / "vectors"
  BlockStore(folder, {"step": 40}, blocks).claim()
  BlockStore(folder, {"step": 40}, blocks).claim()
  with pytest.raises(BlocksError, match="step: was 40, is 60"):
    BlockStore(folder, {"step": 60}, blocks).claim()
  (folder / "identity.json").write_text("{")
  with pytest.raises(BlocksError, match="cannot be read"):
    BlockStore(folder, {"step": 40}, blocks).claim()
  (folder / "identity.json").unlink()
  (folder / "000000000.parquet").write_text("answers")
  with pytest.raises(BlocksError, match="what they were made from"):
    BlockStore(folder, {"step": 40}, blocks).claim()
