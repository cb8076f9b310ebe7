"""Two runs, user by user: the right difference, or a refusal that says why."""

import json

import numpy as np
import pytest

from calrec_jax.__main__ import main
from calrec_jax.evaluate import (
  Bootstrap,
  Protocol,
  RunSide,
  average_runs,
  compare_runs,
  evaluate,
  write_results,
)
from calrec_jax.metrics import ranking_metrics
from tests.fixtures import evaluation_toys as toys

FLOAT = 1e-12
ITEMS = toys.catalogue(same_text=[(3, 4)])


def write(folder, users=None, recommenders=None, data=None, **protocol):
  results = evaluate(
    recommenders or [toys.popularity(ITEMS), toys.by_distance(ITEMS)],
    toys.histories() if users is None else users,
    ITEMS,
    protocol=Protocol(bootstrap=Bootstrap(resamples=200), **protocol),
    data=data or {"outputs": {"train": "ab" * 32, "test": "cd" * 32}},
    progress=False,
  )
  write_results(folder, results)
  return results


def compare(a, b):
  return compare_runs(RunSide.parse(str(a)), RunSide.parse(str(b)))


def user_values(results):
  return ranking_metrics.user_values(
    ranking_metrics.METRICS,
    results.ranks["near"]["not_last"],
    # As stored, in single precision.
    results.text_ranks["near"]["not_last"].astype(np.float32),
  )


@pytest.fixture
def two(tmp_path):
  """A run, and another with a better "near" and its users in another order."""
  better = toys.Nearby(ITEMS)
  better.name = "near"
  return (
    write(tmp_path / "a", recommenders=[toys.popularity(ITEMS), better]),
    write(tmp_path / "b", users=toys.histories()[::-1]),
  )


def test_the_difference_is_that_of_the_same_users(two, tmp_path):
  found = compare(tmp_path / "a", tmp_path / "b" / "metrics.json")
  assert found["users"] == 30
  assert [pair["a"] for pair in found["pairs"]] == ["popularity", "near"]
  for entry in found["pairs"][0]["metrics"].values():
    assert entry["value"] == entry["low"] == entry["high"] == 0.0
  hits = [results.ranks["near"]["not_last"] <= 10 for results in two]
  difference = hits[0].astype(float) - hits[1][::-1]
  entry = found["pairs"][1]["metrics"]["recall@10"]
  assert abs(entry["value"] - difference.mean()) < FLOAT
  assert abs(entry["a"] - hits[0].mean()) < FLOAT
  assert abs(entry["b"] - hits[1].mean()) < FLOAT
  values = [user_values(results) for results in two]
  intervals = Bootstrap(resamples=200).differences(values[0], values[1][::-1])
  interval = intervals[ranking_metrics.METRICS.index("recall@10")]
  assert (entry["low"], entry["high"]) == (interval.low, interval.high)
  assert entry["low"] < entry["high"]


def test_two_recommenders_are_compared_across_runs(two, tmp_path):
  found = compare(f"{tmp_path}/a:near", f"{tmp_path}/b:popularity")
  [pair] = found["pairs"]
  assert (pair["a"], pair["b"]) == ("near", "popularity")
  own = compare(f"{tmp_path}/b:near", f"{tmp_path}/b:popularity")["pairs"][0]
  stored = two[1].recommenders["near"]["difference"]["metrics"]
  for name, entry in stored.items():
    for key, number in entry.items():
      # Ranks of texts are stored in single precision.
      assert own["metrics"][name][key] == pytest.approx(number, abs=1e-6)
  one = compare(f"{tmp_path}/a:near", tmp_path / "b")["pairs"]
  assert [(pair["a"], pair["b"]) for pair in one] == [("near", "near")]


def test_of_several_runs_the_means_are_compared(two, tmp_path, capsys):
  both = f"{tmp_path}/a,{tmp_path}/b"
  found = compare(f"{both}:near", f"{tmp_path}/b/metrics.json:near")
  [pair] = found["pairs"]
  entry = pair["metrics"]["recall@10"]
  values = np.stack([user_values(two[0]), user_values(two[1])[::-1]])
  place = ranking_metrics.METRICS.index("recall@10")
  runs = values[:, :, place].mean(axis=1)
  np.testing.assert_allclose(entry["a_runs"], runs, rtol=FLOAT)
  assert entry["a"] == pytest.approx(runs.mean(), abs=FLOAT)
  difference = Bootstrap(resamples=200).differences(
    values.mean(axis=0), values[1]
  )[place]
  assert (entry["low"], entry["high"]) == (difference.low, difference.high)
  assert [run["folder"] for run in found["a"]] == both.split(",")
  assert main(["eval", "--compare", both, f"{tmp_path}/b"]) == 0
  printed = capsys.readouterr().out
  assert "runs of A" in printed
  assert "runs of B" not in printed
  average = average_runs(RunSide.parse(f"{both}:near"))["recall@10"]
  interval = Bootstrap(resamples=200).means(values.mean(axis=0))[place]
  assert (average["low"], average["high"]) == (interval.low, interval.high)
  assert average["value"] == pytest.approx(entry["a"], abs=FLOAT)
  assert average["runs"] == entry["a_runs"]
  low, high = (f"{value:.4f}"[1:] for value in sorted(entry["a_runs"]))
  assert f"{low}-{high}" in printed
  with pytest.raises(ValueError, match="appears twice"):
    compare(f"{tmp_path}/a,{tmp_path}/a", tmp_path / "b")
  write(tmp_path / "c", users=toys.histories()[:20])
  with pytest.raises(ValueError, match="10 users of"):
    compare(f"{tmp_path}/a,{tmp_path}/c", tmp_path / "b")


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"users": toys.histories()[:20]}, "10 users of .* are missing"),
    ({"rule": "all"}, "candidates: 'not_last' and 'all'"),
    ({"metrics": ("ndcg@10", "recall@10")}, "depth: 100 and 20"),
    ({"data": {"outputs": {"train": "ef" * 32}}}, "data, train: sha256 abab"),
    (
      {"recommenders": [toys.Nearby(ITEMS)]},
      "none in common. Name one of each",
    ),
  ],
)
def test_what_does_not_compare_is_refused(two, tmp_path, changes, said):
  write(tmp_path / "c", **changes)
  with pytest.raises(ValueError, match=said):
    compare(tmp_path / "a", tmp_path / "c")


def test_another_split_or_target_is_refused(two, tmp_path):
  users = toys.histories()
  users[3] = toys.history(3, users[3].items, (users[3].target + 1) % 40)
  write(tmp_path / "c", users=users)
  with pytest.raises(ValueError, match=r"1 users have another target.*'u3'"):
    compare(tmp_path / "a", tmp_path / "c")
  for folder, split in (("a", "test"), ("b", "validation")):
    path = tmp_path / folder / "metrics.json"
    content = json.loads(path.read_text())
    content["protocol"]["split"] = split
    path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match="split: 'test' and 'validation'"):
    compare(tmp_path / "a", tmp_path / "b")


def test_an_unknown_recommender_is_named(two, tmp_path):
  with pytest.raises(ValueError, match="no recommender 'far'; it has popul"):
    compare(f"{tmp_path}/a:far", tmp_path / "b")


def test_the_verb_prints_and_writes(two, tmp_path, capsys):
  (tmp_path / "b" / "cases.json").unlink()  # Not needed.
  runs = [str(tmp_path / "a"), str(tmp_path / "b")]
  output = str(tmp_path / "made")
  assert main(["eval", "--compare", *runs, f"--output={output}"]) == 0
  printed = capsys.readouterr().out
  content = json.loads((tmp_path / "made" / "compare.json").read_text())
  assert content == compare(*runs)
  entry = content["pairs"][1]["metrics"]["ndcg@10"]
  assert f"{entry['value']:+.4f}".replace("0.", ".", 1) in printed
  assert "NDCG@10" in printed
  assert np.all([len(line) <= 100 for line in printed.splitlines()[4:]])
  assert main(["eval", "--compare", runs[0], f"{tmp_path}/no"]) == 1
  assert f"{tmp_path}/no" in capsys.readouterr().err


@pytest.mark.usefixtures("two")
def test_a_folder_without_results_says_what_to_do(tmp_path):
  with pytest.raises(ValueError, match="does not exist: evaluate that run"):
    compare(tmp_path / "none", tmp_path / "a")
  (tmp_path / "empty").mkdir()
  with pytest.raises(ValueError, match="holds no results: evaluate that run"):
    compare(tmp_path / "empty", tmp_path / "a")
  with pytest.raises(ValueError, match=f"Give {tmp_path / 'a'} or"):
    compare(tmp_path, tmp_path / "a")
