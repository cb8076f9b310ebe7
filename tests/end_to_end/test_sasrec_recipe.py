"""SASRec as a user trains and evaluates it: stopped early, killed, reused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from calrec_jax.__main__ import main
from calrec_jax.checkpoint import store
from calrec_jax.checkpoint.store import CheckpointError
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.recommend.dense import sasrec_checkpoint
from calrec_jax.train import checkpointing, telemetry
from tests.fixtures import planted_log

pytestmark = pytest.mark.slow

# What a row of the log says about the machine rather than about the run.
TIMINGS = {"step_seconds", "tokens_per_second", "examples_per_second"}
KILLED_AT = 47  # Between two validations, after some checkpoints.

_RECIPE = """
include "recipes/sasrec_own_log.gin"

INTERACTIONS = "{folder}/purchases.csv"
ITEMS = "{folder}/products.jsonl"
LogFiles.user_column = "customer"
LogFiles.item_column = "sku"
LogFiles.time_column = "bought_at"
LogFiles.text_columns = {{"title": "name"}}
Dataset.data_dir = "{folder}/data"
Domain.min_count = 1
Domain.fields = (("Title", "title"),)
MIXTURE_OR_TASK_NAME = "own_log"
MODEL_DIR = "{folder}/sasrec"
# Another vocabulary than the language model's, which changes no item.
VOCABULARY_SIZE = 300

MAX_HISTORY = 6
LEARNING_RATE = 3e-2
SASRecConfig.width = 16
SASRecConfig.dropout = 0.2
TASK_FEATURE_LENGTHS = {{"tokens": 32, "slots": 32}}
BATCH_SIZE = 8
TRAIN_STEPS = 400
Stage.log_period = 15
Validation.period = 10
Validation.patience = 4
CheckpointPolicy.period = 25
# A ranking that is right for all users is soon the same at every validation.
CheckpointPolicy.best_metric = "loss"
CheckpointPolicy.best_is_highest = False
"""


class Killed(BaseException):
  """Takes the place of the signal that kills a run; nothing catches it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A log with a planted rule, a language model's recipe and SASRec's."""
  folder = tmp_path_factory.mktemp("log")
  planted_log.write_own_log(folder)
  (folder / "sasrec.gin").write_text(_RECIPE.format(folder=folder))
  return folder


def run(verb, folder, *flags, recipe="sasrec.gin"):
  return main([verb, f"--gin_file={folder / recipe}", *flags])


@pytest.fixture(scope="module")
def trained(folder):
  assert run("train", folder) == 0
  return folder / "sasrec" / "train"


def rows_of(stage):
  return [
    {key: value for key, value in row.items() if key not in TIMINGS}
    for row in telemetry.read_rows(stage / telemetry.METRICS_FILE)
  ]


def test_stops_early_and_hands_the_best_over(trained):
  losses = {
    row["step"]: row["loss"]
    for row in rows_of(trained)
    if row["split"] == "validation"
  }
  # Checkpoints at their own period are validated, too, but end nothing.
  due = [step for step in losses if step % 10 == 0]
  best, last = min(due, key=losses.get), max(losses)
  assert last == best + 4 * 10 < 400
  saved = [step for step in losses if step % 25 == 0 or step in (best, last)]
  handed = min(saved, key=losses.get)
  assert json.loads((trained / "handover.json").read_text()) == {
    "checkpoint": f"checkpoint_{handed}",
    "steps": last,
  }
  assert store.steps(trained) == sorted({handed, last})
  recorded = store.read_json(trained / f"checkpoint_{last}", "early_stopping")
  assert recorded == {
    "best": -losses[best],
    "best_step": best,
    "waited": 4,
    "counted_step": last,
  }


def test_a_killed_run_stops_at_the_same_step_with_the_same_bits(
  folder, trained, monkeypatch
):
  flags = [f"--gin.MODEL_DIR='{folder}/killed'"]
  advance = telemetry.StageLog.advance
  done = []

  def advance_or_die(log):
    done.append(log)
    if len(done) > KILLED_AT:
      raise Killed
    advance(log)

  save = checkpointing.Checkpoints.save

  def save_whole(saved, *arguments, **settings):
    # A process that is killed has no thread that continues saving.
    save(saved, *arguments, **settings)
    saved.wait()

  with monkeypatch.context() as patch:
    patch.setattr(telemetry.StageLog, "advance", advance_or_die)
    patch.setattr(checkpointing.Checkpoints, "save", save_whole)
    with pytest.raises(Killed):
      run("train", folder, *flags)
  killed = folder / "killed" / "train"
  assert 0 < store.steps(killed)[-1] < KILLED_AT
  assert run("train", folder, *flags) == 0
  assert rows_of(killed) == rows_of(trained)
  handovers = [
    json.loads((stage / "handover.json").read_text())
    for stage in (killed, trained)
  ]
  assert handovers[0] == handovers[1]
  arrays, expected = (
    store.read_arrays(stage / handovers[0]["checkpoint"])
    for stage in (killed, trained)
  )
  assert arrays.keys() == expected.keys()
  for path, array in arrays.items():
    assert array.tobytes() == expected[path].tobytes(), path


def test_what_decides_the_end_may_not_change(folder, trained, capsys):
  del trained
  assert run("train", folder, "--gin.Validation.patience=9") == 1
  said = capsys.readouterr().err
  assert "early_stopping.Validation.patience: was 4, is 9" in said


def metrics_of(output):
  return json.loads((output / "own_log" / "metrics.json").read_text())


def test_beats_the_baselines_beside_which_it_is_measured(folder, trained):
  assert run("eval", folder) == 0
  results = metrics_of(trained / "eval")["recommenders"]
  assert {"sasrec", "popularity", "bm25_history"} <= results.keys()
  recall = {
    name: found["metrics"]["recall@1"]["value"]
    for name, found in results.items()
  }
  assert recall["sasrec"] > 0.5
  # What is planted is a rule.
  assert recall.pop("sequential_rules") > 0.5
  assert recall.pop("sasrec") > 2 * max(recall.values())


def test_a_text_model_s_recommenders_are_refused(folder, trained, capsys):
  del trained
  assert run("eval", folder, "--gin.Evaluation.recommenders=('dense',)") == 1
  assert "It ranks as 'sasrec'" in capsys.readouterr().err


def test_ranks_in_the_recipe_of_another_model(folder, trained, capsys):
  flags = [
    "--gin.Evaluation.recommenders=('sasrec', 'popularity')",
    f"--gin.EVAL_OUTPUT_DIR='{folder}/beside'",
  ]
  language_model = {"recipe": "own_log.gin"}
  assert run("eval", folder, *flags, **language_model) == 1
  assert "bind trained_sasrec.checkpoint" in capsys.readouterr().err.replace(
    "\n", " "
  )
  flags.append(f"--gin.trained_sasrec.checkpoint='{trained}'")
  assert run("eval", folder, *flags, **language_model) == 0
  beside = metrics_of(folder / "beside")["recommenders"]["sasrec"]
  own = metrics_of(trained / "eval")["recommenders"]["sasrec"]
  for name, value in own["metrics"].items():
    assert beside["metrics"][name] == value


def test_other_items_and_other_splits_are_refused(folder, trained):
  paths = sorted((folder / "data" / "caches").glob("own_log-*"))
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))

  def ranks_on(cache):
    return sasrec_checkpoint.trained_sasrec(cache, mesh, checkpoint=trained)

  other_split = TokenCache.open(paths[0])
  outputs = {**other_split.card["outputs"], "test": "of another split"}
  other_split.card = {**other_split.card, "outputs": outputs}
  with pytest.raises(CheckpointError, match="another split of own_log: test"):
    ranks_on(other_split)
  other_items = TokenCache.open(paths[0])
  other_items.catalogue = dataclasses.replace(
    other_items.catalogue, item_ids=other_items.catalogue.item_ids[::-1]
  )
  with pytest.raises(CheckpointError, match="not on the 48 items of own_log"):
    ranks_on(other_items)


def test_answers_new_users(folder, trained, tmp_path):
  del trained
  histories = tmp_path / "new.jsonl"
  histories.write_text('{"user_id": "new", "items": ["tea-1", "tea-2"]}\n')
  output = tmp_path / "out.jsonl"
  status = run(
    "infer",
    folder,
    "--recommender=sasrec",
    f"--histories={histories}",
    "--top_k=3",
    f"--output={output}",
  )
  assert status == 0
  [answer] = map(json.loads, output.read_text().splitlines())
  assert answer["items"][0]["item_id"] == "tea-3"


@pytest.mark.slow
def test_a_last_fit_trains_on_the_validation_events(folder, trained):
  del trained
  flags = [
    "--gin_file=stages/final_fit.gin",
    "--gin.TRAIN_STEPS=20",
    f"--gin.MODEL_DIR='{folder}/final'",
  ]
  assert run("train", folder, *flags) == 0
  lineage = json.loads((folder / "final/train/lineage.json").read_text())
  assert lineage["training"]["feed"]["Feed.split"] == "validation"
  assert "early_stopping" not in lineage["training"]


@pytest.mark.parametrize(
  ("binding", "named"),
  [
    ("Feed.split='validation'", "Validation.patience = None"),
    ("Feed.max_history=7", "SASRecConfig.max_items = 6"),
    ("Feed.item_segments=True", "Feed.item_segments"),
    ("Stage.objective=@Objective()", "is trained by a NextItem"),
    ("Validation.patience=0", "at least 1"),
  ],
)
def test_what_does_not_go_together(folder, capsys, binding, named):
  assert run("train", folder, f"--gin.{binding}") == 1
  assert named in capsys.readouterr().err
