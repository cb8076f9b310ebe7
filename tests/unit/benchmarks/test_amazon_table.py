"""The table of the small domains: its runs are commands, its numbers theirs."""

import pathlib

import pytest

from benchmarks import amazon_plan, amazon_table
from benchmarks.study import Study
from calrec_jax.__main__ import main as calrec
from calrec_jax.evaluate import Bootstrap, Protocol, evaluate, write_results
from tests.fixtures import evaluation_toys as toys

ITEMS = toys.catalogue()
TARGET = "amazon2014_office"


def planned(folder, **changes):
  settings = {"seeds": [0, 1], "targets": amazon_plan.TARGETS} | changes
  return list(amazon_plan.plan(folder, pathlib.Path("/logs"), **settings))


def test_stage_one_is_trained_once_a_seed(tmp_path):
  runs = planned(tmp_path)
  Study(tmp_path, runs, workers=1)  # Refuses runs before their needs.
  names = [run.name for run in runs]
  assert len(names) == 2 * (1 + 3 * 13)
  assert [name for name in names if name.startswith("joint")] == [
    "joint_0",
    "joint_1",
  ]


def test_a_last_fit_knows_what_its_evaluation_counts(tmp_path):
  for run in planned(tmp_path, seeds=[0]):
    final = any("_final" in name for name in (run.name, *run.needs))
    known = "--gin_file=stages/final_fit.gin" in run.arguments
    assert known == (final or "counted" in run.name)
    if final and run.arguments[0] == "train":
      assert any("TRAIN_STEPS=" in flag for flag in run.arguments)
      # Nothing can be chosen by what is trained on.
      assert not any("Validation." in flag for flag in run.arguments)


def test_every_run_is_a_command_that_gin_reads(tmp_path, capsys):
  for run in planned(tmp_path, seeds=[7], targets=[TARGET]):
    assert calrec([*run.arguments, "--dry_run"]) == 0
    resolved = capsys.readouterr().out
    assert "7" in resolved
    assert "/logs" in resolved


@pytest.mark.parametrize(
  ("model", "target", "steps"),
  [
    ("gemma", "amazon2014_office", 171),
    ("gemma", "amazon2018_scientific", 135),
    ("gemma", "amazon2014_beauty", 286),
    ("smollm2", TARGET, 195),
  ],
)
def test_a_pretrained_model_replaces_the_small_one(
  tmp_path, capsys, model, target, steps
):
  argv = ["--root=logs", f"--output={tmp_path}", "--seeds=0", "--dry_run"]
  argv += [f"--targets={target}", f"--model={model}"]
  assert amazon_table.main(argv) == 0
  lines = capsys.readouterr().out.splitlines()
  # No last fits, whose steps are unknown.
  assert len(lines) == 1 + 7
  recipes = [line for line in lines if "amazon_small_ranking" in line]
  assert not recipes
  [stage_two] = [
    line
    for line in lines
    if line.startswith("calrec train") and "--stage=target" in line
  ]
  assert f"target/TRAIN_STEPS={steps} " in stage_two
  for run in planned(
    tmp_path,
    seeds=[0],
    targets=[target],
    model=amazon_plan.MODELS[model],
    kinds=["all", "ruled"],
  ):
    assert calrec([*run.arguments, "--dry_run"]) == 0


def test_flags_go_to_every_run(tmp_path, capsys):
  argv = ["--root=logs", f"--output={tmp_path}", "--seeds=3", "--dry_run"]
  assert amazon_table.main([*argv, "--gin.DecoderConfig.layers=1"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 40
  assert all("--gin.DecoderConfig.layers=1" in line for line in lines)
  for flag, left_out, retained in (
    ("--no-full_softmax", "NEGATIVES", 34),
    ("--no-final_fit", "final_fit", 22),
  ):
    assert amazon_table.main([*argv, flag]) == 0
    shorter = capsys.readouterr().out.splitlines()
    assert len(shorter) == retained
    assert not any(left_out in line for line in shorter)
  for wrong in ("--layers=1", "--targets=shop"):
    with pytest.raises(SystemExit):
      amazon_table.main([*argv, wrong])
    assert wrong.split("=")[1] in capsys.readouterr().err


def _named(scorer, name):
  scorer.name = name
  return scorer


def _write(folder, scorers):
  card = {
    "name": TARGET,
    "inputs": [{"file": "interactions.csv.gz", "sha256": "ab" * 32}],
    "outputs": {"train": "cd" * 32, "test": "ef" * 32},
  }
  results = evaluate(
    [_named(scorer, name) for name, scorer in scorers.items()],
    toys.histories(seed=3),
    ITEMS,
    protocol=Protocol(
      bootstrap=Bootstrap(resamples=50), reference=next(iter(scorers))
    ),
    data=card,
    progress=False,
  )
  write_results(folder, results)
  return results


def test_the_tables_are_those_of_the_runs(tmp_path):
  """One better and one worse seed of a recommender; rules know no seed."""
  rules = (
    "dense",
    "sequential_rules",
    "bm25_last_item",
    "bm25_history",
    "popularity",
    "last_item",
  )
  expected = []
  for seed in (0, 1):
    near = toys.by_distance(ITEMS) if seed else toys.Nearby(ITEMS)
    scorers = {
      "fused": near,
      "sasrec": toys.Nearby(ITEMS),
      **{name: toys.popularity(ITEMS) for name in rules},
    }
    for kind, measured in amazon_plan.EVALUATIONS.items():
      names = measured.recommenders
      written = _write(
        tmp_path / f"{TARGET}_eval_{kind}_{seed}" / TARGET,
        {name: scorers[name] for name in names},
      )
      if kind == "all":
        expected.append(
          written.recommenders["fused"]["metrics"]["ndcg@10"]["value"]
        )
  text = amazon_table.of_target(tmp_path, TARGET, [0, 1])
  heading = "### With the validation events"
  text, known = text.split(heading)
  for row in amazon_table.PARTS[1].rows:
    label = row.label.replace("{model}", "small CALRec")
    assert f"\n| {label} |" in known
  named = amazon_table.of_target(tmp_path, TARGET, [0], model="Other")
  assert "\n| **Other, dense** |" in named
  assert "Other, dense against BM25" in named
  same = "sequential rules against sequential rules without the events"
  assert f"\n| {same} |" in known
  kinds = [kind for kind, at in amazon_plan.EVALUATIONS.items() if not at.known]
  assert heading not in amazon_table.of_target(tmp_path, TARGET, [0], kinds)
  rows = {
    line.split("|")[1].strip(): line.split("|")
    for line in text.splitlines()
    if line.startswith("|")
  }
  assert "30 users, 40 items" in text
  assert "interactions.csv.gz abababababab" in text
  assert "test efefefefefef" in text
  first = rows[amazon_table.PARTS[0].rows[0].label]
  mean = f"{sum(expected) / 2:.4f}"[1:]
  assert first[5].strip().startswith(f"{mean} [")
  low, high = (f"{value:.4f}"[1:] for value in sorted(expected))
  assert first[7].strip() == f"{low}–{high}"
  assert rows["popularity"][7].strip() == ""
  assert rows["SASRec, 512 corrected negatives"][7].strip() == ""
  same = rows[
    "small CALRec, dense against BM25 on the last item"
  ]  # Both are the same toy.
  assert same[2].strip().startswith("+.0000 [+.0000, +.0000]")
