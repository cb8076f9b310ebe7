"""What a stage writes about itself, also after it was killed."""

import json

import pytest

from calrec_jax.runtime import chips
from calrec_jax.train import telemetry

LOSSES = {
  "loss": 1.5,
  "loss_nig_nats": 1.0,
  "loss_tt_nats": 2.0,
  "loss_ut_nats": 3.0,
}
SPEEDS = {"tokens_per_second": 1234.5, "examples_per_second": 67.0}


def write_rows(path, steps, **values):
  log = telemetry.MetricsLog(path, 0)
  for step in steps:
    log.write(step, "train", {"loss": 1.0 / step, **values})
  log.close()


def test_rows_read_back(tmp_path):
  path = tmp_path / "metrics.jsonl"
  write_rows(path, [1, 2])
  assert telemetry.read_rows(path) == [
    {"step": 1, "split": "train", "loss": 1.0},
    {"step": 2, "split": "train", "loss": 0.5},
  ]
  assert telemetry.read_rows(tmp_path / "none.jsonl") == []


def test_rows_are_on_disk_before_the_log_is_closed(tmp_path):
  path = tmp_path / "metrics.jsonl"
  log = telemetry.MetricsLog(path, 0)
  log.write(1, "train", LOSSES)
  assert len(telemetry.read_rows(path)) == 1
  log.close()


def test_going_on_drops_the_rows_that_will_be_written_again(tmp_path):
  path = tmp_path / "metrics.jsonl"
  write_rows(path, range(1, 7))
  log = telemetry.MetricsLog(path, 4)
  log.write(5, "train", {"loss": 9.0})
  log.close()
  rows = telemetry.read_rows(path)
  assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
  assert rows[-1]["loss"] == 9.0
  assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_last_line_cut_by_a_kill_is_dropped(tmp_path):
  path = tmp_path / "metrics.jsonl"
  write_rows(path, [1, 2])
  path.write_text(path.read_text()[:-9])
  assert [row["step"] for row in telemetry.read_rows(path)] == [1]
  write = telemetry.MetricsLog(path, 2)
  write.write(2, "train", LOSSES)
  write.close()
  assert [row["step"] for row in telemetry.read_rows(path)] == [1, 2]


def test_a_broken_line_elsewhere_names_file_and_line(tmp_path):
  path = tmp_path / "metrics.jsonl"
  write_rows(path, [1, 2])
  path.write_text("{broken\n" + path.read_text())
  with pytest.raises(ValueError, match=r"metrics\.jsonl:1 is not JSON"):
    telemetry.read_rows(path)


def test_tensorboard_reads_the_events(tmp_path):
  from tensorboard.backend.event_processing import event_accumulator

  log = telemetry.TensorBoardLog(tmp_path, 0)
  for step in (1, 2, 3):
    log.write(step, "train", {"loss": float(step), "note": "no number"})
  log.close()
  again = telemetry.TensorBoardLog(tmp_path, 1)
  again.write(2, "train", {"loss": 20.0})
  again.close()
  read = event_accumulator.EventAccumulator(str(tmp_path))
  read.Reload()
  assert read.Tags()["scalars"] == ["train/loss"]
  # TensorBoard purges what the killed run wrote beyond step 1.
  assert [(e.step, e.value) for e in read.Scalars("train/loss")] == [
    (1, 1.0),
    (2, 20.0),
  ]


@pytest.mark.parametrize("speeds", [SPEEDS, {}], ids=["timed", "untimed"])
def test_the_bar_shows_losses_and_speeds_if_any(tmp_path, capsys, speeds):
  # A row has no speeds where its only step was the one that compiled.
  log = telemetry.StageLog(tmp_path, "joint", 3, 10)
  log.advance()
  log.write(4, "train", {**LOSSES, **speeds})
  log.write(4, "validation", {"ndcg@10": 0.25})
  log.close()
  shown = capsys.readouterr().err
  assert "joint" in shown
  assert "4/10" in shown
  assert "loss 1.500, nig 1.000, tt 2.000, ut 3.000" in shown
  assert ("1,234 tok/s" in shown) == bool(speeds)
  rows = telemetry.read_rows(tmp_path / telemetry.METRICS_FILE)
  assert [row["split"] for row in rows] == ["train", "validation"]
  assert list((tmp_path / "tensorboard").iterdir())


def test_the_peak_of_a_cpu_is_not_made_up():
  assert chips.peak_flops() is None


def test_rows_are_json_that_others_read(tmp_path):
  write_rows(tmp_path / "m.jsonl", [1], tokens=2.0)
  [line] = (tmp_path / "m.jsonl").read_text().splitlines()
  assert json.loads(line)["tokens"] == 2.0
