"""A job of blocks gives what one that is never cut gives, bit for bit."""

import threading

import numpy as np
import pytest

from calrec_jax.evaluate import (
  Bootstrap,
  Job,
  Protocol,
  Shard,
  ShardedEvaluation,
  block_files,
  evaluate,
)
from calrec_jax.evaluate.runs import Block, Call, Varied
from tests.fixtures import evaluation_toys as toys

pytestmark = pytest.mark.heavy

ITEMS = toys.catalogue(same_text=[(3, 4)])
USERS = toys.histories(30)


def recommenders():
  return [
    toys.popularity(ITEMS),
    toys.by_distance(ITEMS),
    toys.Nearby(ITEMS),
  ]


def settings(**changes):
  return Protocol(
    **{"bootstrap": Bootstrap(resamples=100), "num_cases": 4, **changes}
  )


def job(folder, answering=None, block_users=7, made_by=None, **protocol):
  answering = answering or recommenders()
  return ShardedEvaluation(
    folder,
    answering,
    USERS,
    ITEMS,
    {recommender.name: made_by or {} for recommender in answering},
    settings=Job(block_users=block_users),
    protocol=settings(**protocol),
  )


@pytest.fixture(scope="module")
def whole():
  return evaluate(
    recommenders(), USERS, ITEMS, protocol=settings(), progress=False
  )


def assert_same(results, whole):
  for name, entry in whole.recommenders.items():
    other = results.recommenders[name]
    assert entry.keys() == other.keys()
    for key in entry.keys() - {"cost", "validity"}:
      assert entry[key] == other[key], (name, key)
    for key, value in entry["validity"].items():
      assert other["validity"][key] == pytest.approx(value, abs=1e-12)
    for rule, ranks in whole.ranks[name].items():
      np.testing.assert_array_equal(results.ranks[name][rule], ranks)
      np.testing.assert_array_equal(
        results.text_ranks[name][rule], whole.text_ranks[name][rule]
      )
  assert results.cases == whole.cases
  assert results.users["user_id"] == whole.users["user_id"]


@pytest.mark.parametrize(
  ("block_users", "batch_users"), [(1, 256), (7, 3), (64, 7)]
)
def test_blocks_and_batches_change_no_number(
  tmp_path, whole, block_users, batch_users
):
  found = job(tmp_path, block_users=block_users, batch_users=batch_users)
  found.work(Shard(), progress=False)
  assert_same(found.results(), whole)


class Failing(toys.Scorer):
  """Answers a number of calls, then ends as a killed process would."""

  def __init__(self, other, calls):
    super().__init__(other.name, other.score)
    self.describe = other.describe
    self.calls = calls

  def recommend(self, histories, *, depth, rules):
    if not self.calls:
      raise KeyboardInterrupt
    self.calls -= 1
    return super().recommend(histories, depth=depth, rules=rules)


def test_a_stopped_job_resumes_with_other_processes(tmp_path, whole):
  popular, *others = recommenders()
  stopped = job(tmp_path, [Failing(popular, 2), *others])
  with pytest.raises(KeyboardInterrupt):
    stopped.work(Shard(0, 2), progress=False)
  again = job(tmp_path)
  assert again.state() == [
    "popularity: 2 of 5 blocks were done before",
    "near: 2 of 5 blocks were done before",
    "nearby: 2 of 5 blocks were done before",
  ]
  with pytest.raises(FileNotFoundError):
    again.results()
  again.work(Shard(2, 3), progress=False)
  assert_same(again.results(), whole)


def test_what_is_done_is_not_done_again(tmp_path, whole):
  job(tmp_path).work(Shard(), progress=False)
  finished = [Failing(recommender, 0) for recommender in recommenders()]
  again = job(tmp_path, finished)
  again.work(Shard(), progress=False)
  assert_same(again.results(), whole)


def test_an_extra_recommender_is_all_that_is_done(tmp_path, whole):
  popular, *others = recommenders()
  job(tmp_path, [popular]).work(Shard(), progress=False)
  found = job(tmp_path, [Failing(popular, 0), *others])
  found.work(Shard(), progress=False)
  assert_same(found.results(), whole)


def test_processes_at_once_divide_the_work(tmp_path, whole):
  # Threads: what counts is that they share nothing but the folder.
  jobs = [job(tmp_path, block_users=2) for _ in range(3)]
  threads = [
    threading.Thread(target=found.work, args=(Shard(index, 3), False))
    for index, found in enumerate(jobs)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert_same(jobs[0].results(), whole)


def test_a_block_that_another_finished_is_left(tmp_path, whole):
  other = job(tmp_path, batch_users=1)

  class Overtaken(toys.Scorer):
    """While it answers its first call, another does the whole job."""

    calls = 0

    def recommend(self, histories, *, depth, rules):
      if not Overtaken.calls:
        other.work(Shard(), progress=False)
      Overtaken.calls += 1
      return super().recommend(histories, depth=depth, rules=rules)

  popular, *others = recommenders()
  found = job(
    tmp_path, [Overtaken(popular.name, popular.score), *others], batch_users=1
  )
  found.work(Shard(), progress=False)
  assert Overtaken.calls == 1
  assert_same(found.results(), whole)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"made_by": {"checkpoint": 2}}, "checkpoint: was 1, is 2"),
    ({"block_users": 5}, "block_users: was 7, is 5"),
    ({"metrics": ("ndcg@10", "recall@10")}, "horizon: was 50, is 10"),
    ({"rules": ("not_last",)}, "rules: was"),
    ({"num_cases": 3}, "cases.number: was 4, is 3"),
  ],
)
def test_answers_of_other_settings_are_not_mixed(tmp_path, changes, said):
  job(tmp_path, made_by={"checkpoint": 1}).work(Shard(), progress=False)
  found = job(tmp_path, **{"made_by": {"checkpoint": 1}, **changes})
  lines = found.state()
  assert len(lines) == 3
  assert all(said in line for line in lines)
  with pytest.raises(FileNotFoundError):
    found.results()
  found.work(Shard(), progress=False)
  found.results()
  found.tidy()
  assert len(list((tmp_path / "shards" / "near").iterdir())) == 1


def test_what_a_recommender_says_decides_its_answers(tmp_path):
  class Trained(toys.Scorer):
    weights = 1

    def fingerprint(self):
      return {"weights": self.weights}

  trained = Trained("trained", lambda items: np.arange(40))
  job(tmp_path, [trained]).work(Shard(), progress=False)
  assert "were done before" in job(tmp_path, [trained]).state()[0]
  trained.weights = 2
  [line] = job(tmp_path, [trained]).state()
  assert "recommender.fingerprint.weights: was 1, is 2" in line


def test_intervals_and_slices_are_made_anew_from_the_same_answers(tmp_path):
  job(tmp_path).work(Shard(), progress=False)
  changed = job(
    tmp_path,
    [Failing(recommender, 0) for recommender in recommenders()],
    bootstrap=Bootstrap(resamples=50),
    slice_metrics=("mrr",),
  )
  changed.work(Shard(), progress=False)
  assert changed.results().protocol["intervals"]["resamples"] == 50


def block():
  found = Block.begin(2, ("all", "not_last"))
  ranks = {"all": np.array([1.0, np.inf]), "not_last": np.array([1.5, 4 / 3])}
  for rule, values in ranks.items():
    found.columns[f"rank.{rule}"] = values
    found.columns[f"text_rank.{rule}"] = values / 3
  found.columns["listed.all"][:, :2] = [[4, 2], [0, 9]]
  found.columns["score"][:, :2] = [[0.1, -0.25], [1e-9, -np.inf]]
  found.columns["explanation"][1] = '[{"text": "ü"}]'
  found.columns["validity.fraction"] = np.array([np.nan, 1 / 3])
  found.columns["curve.rank"] = np.eye(2)
  found.columns["curve.text_rank"] = np.eye(2) / 3
  found.varied = Varied("samples", (1, 2))
  found.calls = [Call(0.1, 2, first=True)]
  return found


def test_files_round_nothing(tmp_path):
  path = tmp_path / "block.parquet"
  block_files.write_block(path, block(), ["a", "b"])
  again, before = block_files.read_block(path, ["a", "b"]), block()
  assert again.columns.keys() == before.columns.keys()
  for name, values in before.columns.items():
    np.testing.assert_array_equal(again.columns[name], values)
    assert again.columns[name].dtype == values.dtype
  assert again.calls == before.calls
  assert again.varied == before.varied


def test_files_of_others_are_refused(tmp_path):
  path = tmp_path / "block.parquet"
  block_files.write_block(path, block(), ["a", "b"])
  with pytest.raises(ValueError, match="other users"):
    block_files.read_block(path, ["b", "a"])
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(ValueError, match="no block of answers"):
    block_files.read_block(path, ["a", "b"])
