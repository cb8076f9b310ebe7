"""A log of one's own, all the way: data, both stages, evaluation, answers.

Who bought an item of a group buys the next one of its ring; see
`planted_log`. The model is to find that out, popularity cannot.
"""

import json

import pyarrow.parquet as pq
import pytest

from calrec_jax.__main__ import main
from calrec_jax.checkpoint import store
from calrec_jax.train import telemetry
from tests.fixtures import planted_log

USERS, ITEMS = 60, 48
# NDCG@10 over popularity's; three times as much was seen.
MARGIN = 0.15
INTERVAL = {"value", "low", "high"}
COLUMNS = [
  *("user_id", "recommender", "rank", "item_id", "score", "text", "reason")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("own") / "log"


@pytest.fixture(scope="module")
def flags(folder):
  return [f"--gin_file={planted_log.write_own_log(folder)}"]


@pytest.fixture(scope="module")
def trained(folder, flags):
  assert main(["train", *flags]) == 0
  return folder / "model"


@pytest.fixture(scope="module")
def results(trained, flags):
  assert main(["eval", *flags]) == 0
  return trained / "target" / "eval" / "own_log"


def test_the_card_counts_everything_and_names_the_bad_row(flags, capsys):
  assert main(["data", "card", "--quiet", *flags]) == 0
  card = capsys.readouterr().out
  assert "1  bad_timestamp       first at purchases.csv:9" in card
  assert "leakage: 6 checks passed" in card
  assert "purchases.csv" in card


def test_each_stage_leaves_what_explains_it(trained):
  for stage, steps in {"joint": 120, "target": 40}.items():
    folder = trained / stage
    names = {entry.name for entry in folder.iterdir()}
    assert {
      "config.gin",
      "lineage.json",
      "handover.json",
      "metrics.jsonl",
      "time.jsonl",
      "model-info.txt",
      "tensorboard",
      "vocabulary",
      f"checkpoint_{steps}",
      # What the second stage began with was a candidate for the best.
      *(["checkpoint_0"] if stage == "target" else []),
    } == names
    record = json.loads((folder / "lineage.json").read_text())
    assert record["training"]["steps"] == steps
    assert list(record["data"]) == ["own_log"]
    assert (record["parent"] or {}).get("stage") == (
      "joint" if stage == "target" else None
    )
    stored = store.read_json(folder / f"checkpoint_{steps}", "lineage")
    assert stored["cards"]["own_log"]["problems"][0]["count"] == 1
    assert (
      f"{stage}/TRAIN_STEPS = {steps}" in (folder / "config.gin").read_text()
    )
    assert "token_embedder/embedding" in (folder / "model-info.txt").read_text()


def test_item_vectors_stay_with_the_stage(trained, results):
  [folder] = (trained / "target" / "vectors").iterdir()
  assert folder.name.startswith("own_log-")
  identity = json.loads((folder / "identity.json").read_text())
  assert identity["checkpoint"]["stage"] == "target"
  assert [path.name for path in folder.glob("*.npy")] == ["000000000.npy"]


def test_the_log_holds_decreasing_losses_and_speeds(trained):
  rows = telemetry.read_rows(trained / "joint" / "metrics.jsonl")
  training = [row for row in rows if row["split"] == "train"]
  assert [row["step"] for row in training] == [20, 40, 60, 80, 100, 120]
  assert training[-1]["loss_nig_nats"] < training[0]["loss_nig_nats"] / 2
  assert training[-1]["tokens_per_second"] > 0
  assert training[-1]["examples_per_second"] > 0
  assert "model_flop_utilisation" not in training[-1]  # No peak of a CPU.
  assert rows[-1]["split"] == "validation"
  assert 0 <= rows[-1]["ndcg@10"] <= 1


def test_training_again_says_finished_and_changes_nothing(
  trained, flags, capsys
):
  before = contents(trained)
  assert main(["train", *flags]) == 0
  printed = capsys.readouterr().out
  assert "joint: finished before; checkpoint_120" in printed
  assert "target: finished before; checkpoint_40" in printed
  assert contents(trained) == before


def test_the_model_beats_popularity(results):
  metrics = json.loads((results / "metrics.json").read_text())
  value = {
    name: entry["metrics"]["ndcg@10"]
    for name, entry in metrics["recommenders"].items()
  }
  for name in ("dense", "generate", "fused"):
    assert set(value[name]) >= INTERVAL
    assert value[name]["value"] > value["popularity"]["value"] + MARGIN
    assert value[name]["low"] > value["popularity"]["high"]


def test_metrics_follow_the_schema(results):
  metrics = json.loads((results / "metrics.json").read_text())
  assert metrics["schema"] == 1
  assert {"protocol", "data", "checkpoint", "recommenders"} <= set(metrics)
  assert metrics["checkpoint"]["checkpoint"] == "checkpoint_40"
  assert metrics["checkpoint"]["stage"] == "target"
  assert list(metrics["recommenders"]) == [
    "generate",
    "constrained",
    "dense",
    "fused",
    "reranked",
    "popularity",
    "last_item",
    "own_most_frequent",
    "bm25_history",
    "bm25_last_item",
    "sequential_rules",
  ]
  for entry in metrics["recommenders"].values():
    for name, shown in entry["metrics"].items():
      if name.startswith("coverage"):  # Of all users: it has no interval.
        assert 0 <= shown["value"] <= 1
      else:
        assert 0 <= shown["low"] <= shown["value"] <= shown["high"] <= 1
    assert entry["cost"]["users_per_second"] > 0
  assert (
    0 <= metrics["recommenders"]["generate"]["validity"]["exact_samples"] <= 1
  )
  assert (
    metrics["recommenders"]["constrained"]["validity"]["exact_samples"] == 1
  )
  table = pq.read_table(results / "per_user.parquet")
  assert len(set(table["user_id"].to_pylist())) == USERS


def test_the_report_is_self_contained(results):
  report = (results / "report.html").read_text()
  assert report.lstrip().lower().startswith("<!doctype html>")
  for outside in ('src="http', 'href="http', "@import", "url(http"):
    assert outside not in report
  for shown in ("own_log", "popularity", "generate", "joint", "target"):
    assert shown in report


def test_answers_for_users_are_printed(trained, flags, capsys):
  arguments = ["--user=u3", "--user=u4", "--top_k=3", "--recommender=dense"]
  assert main(["infer", *flags, *arguments]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line for line in lines if line.startswith("user ")] == [
    "user u3, by dense",
    "user u4, by dense",
  ]
  assert len(lines) == 2 * (1 + 3)
  rank, score, item_id, text = lines[1].split(maxsplit=3)
  assert (rank, text) == ("1", f"Title: {item_id.replace('-', ' ')}.")
  assert float(score)


def test_all_users_are_answered_into_parquet(trained, flags, folder):
  output = folder / "answers" / "all.parquet"
  arguments = ["--recommender=popularity", "--top_k=5", f"--output={output}"]
  assert main(["infer", *flags, *arguments]) == 0
  table = pq.read_table(output)
  assert table.column_names == COLUMNS
  assert table.num_rows == USERS * 5
  assert table["rank"].to_pylist()[:6] == [1, 2, 3, 4, 5, 1]
  assert [entry.name for entry in output.parent.iterdir()] == ["all.parquet"]


def write_histories(folder, *lines):
  path = folder / "new.jsonl"
  path.write_text("\n".join(lines) + "\n")
  return f"--histories={path}"


def test_new_histories_are_answered_into_json_lines(trained, flags, folder):
  new = [
    {"user_id": "anna", "items": ["milk-1", "milk-2", "milk-3"]},
    {"user_id": "ünal", "items": ["tea-7"]},
  ]
  histories = write_histories(folder, *map(json.dumps, new), "")
  output = folder / "new_answers.jsonl"
  assert main(["infer", *flags, histories, f"--output={output}"]) == 0
  lines = [json.loads(line) for line in output.read_text().splitlines()]
  assert [line["user_id"] for line in lines] == ["anna", "ünal"]
  for line, query in zip(lines, new, strict=True):
    assert line["recommender"] == "fused"
    assert set(line["items"][0]) == {"item_id", "score", "text"}
    scores = [item["score"] for item in line["items"]]
    assert scores == sorted(scores, reverse=True)
    # The last item is no candidate.
    assert query["items"][-1] not in [i["item_id"] for i in line["items"]]


def test_no_history_ends_the_job_and_each_gets_an_answer(
  trained, flags, folder, capsys
):
  histories = write_histories(
    folder,
    '{"user_id": "b", "items": ["milk-1"]}',
    '{"user_id": "c", "items": ["milk-1", "cola"]}',
    '{"user_id": "d", "items": "milk-1"}',
    "not json",
    '{"user_id": "e", "items": ["cola"]}',
  )
  output = folder / "odd.jsonl"
  arguments = ["--recommender=dense", histories, f"--output={output}"]
  assert main(["infer", *flags, *arguments, "--top_k=3"]) == 0
  assert (
    "4 of 5 answers have a reason: 2 bad history, 1 unknown items, 1 no known "
    "item" in capsys.readouterr().err
  )
  lines = [json.loads(line) for line in output.read_text().splitlines()]
  assert all(len(line["items"]) == 3 for line in lines)
  assert [(line["user_id"], line["recommender"]) for line in lines] == [
    ("b", "dense"),
    ("c", "dense"),
    ("d", "popularity"),
    ("e", "popularity"),
    (None, "popularity"),
  ]
  reasons = [line["reason"] for line in lines]
  assert reasons[0] is None
  assert "new.jsonl:2: the catalogue does not hold 'cola'" in reasons[1]
  assert "new.jsonl:3: items is the text 'milk-1'" in reasons[2]
  assert "new.jsonl:4: not a row" in reasons[4]


def test_somebody_who_is_not_in_the_log_is_answered(trained, flags, capsys):
  arguments = ["--user=u333", "--recommender=dense", "--top_k=2"]
  assert main(["infer", *flags, *arguments]) == 0
  captured = capsys.readouterr()
  assert "--user=u333: not in the log. Did you mean 'u33'?" in captured.err
  first, *items = captured.out.splitlines()
  assert first == "user u333, by popularity (not in the log)"
  assert len(items) == 2


@pytest.mark.parametrize(
  ("argument", "said"),
  [
    ("--recommender=densse", "Did you mean 'dense'?"),
    ("--output=answers.csv", ".jsonl or .parquet"),
    ("--domain=own_lag", "Did you mean 'own_log'?"),
    ("--checkpoint=nowhere", "holds no checkpoint_<step> folder"),
  ],
)
def test_a_wrong_request_is_refused(trained, flags, capsys, argument, said):
  assert main(["infer", *flags, argument]) == 1
  assert said in capsys.readouterr().err


@pytest.mark.parametrize(
  "arguments", [["--top_k=0"], ["--user=u1", "--histories=new.jsonl"]], ids=str
)
def test_wrong_usage_is_refused(flags, arguments):
  with pytest.raises(SystemExit):
    main(["infer", *flags, *arguments])


def test_checkpoints_can_be_shown_and_compared(trained, capsys):
  assert main(["checkpoint", "show", str(trained / "target")]) == 0
  shown = capsys.readouterr().out
  assert "target, step 40" in shown
  assert "checkpoint_120 of stage joint" in shown
  assert "ndcg@10" in shown
  stages = [str(trained / stage) for stage in ("joint", "target")]
  assert main(["checkpoint", "diff", *stages]) == 1
  shown = capsys.readouterr().out
  assert "~ target/token_embedder/embedding: largest change" in shown
  assert "~ lineage.stage:" in shown
  assert "rng" not in shown  # Both stages draw from the same seed.


def contents(folder):
  return {
    path: (path.stat().st_size, path.stat().st_mtime_ns)
    for path in folder.rglob("*")
    if path.is_file()
  }
