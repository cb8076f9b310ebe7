"""`calrec checkpoint show` and `diff`, as printed."""

import pytest

from calrec_jax.__main__ import main
from calrec_jax.checkpoint import store
from calrec_jax.train import checkpointing
from tests.fixtures.checkpoint_toys import LINEAGE, make_state, policy

VERSIONS = {"jax": "0.10.2"}
VOCABULARY = {
  "size": 4, "full_size": 1000, "source": "some-model", "kept": [0, 1, 2, 9]
}  # fmt: skip


def save(folder, step, state, lineage):
  opened = checkpointing.Checkpoints(folder, policy())
  opened.save(
    state,
    step=step,
    feed={"step": step},
    lineage=lineage,
    vocabulary=VOCABULARY,
    metrics={"ndcg@10": 0.25},
  )
  opened.close()


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  record = LINEAGE | {
    "data": {"shop": {}, "mart": {}},
    "training": {"task": "both"},
    "versions": VERSIONS,
  }
  save(folder / "joint", 3, make_state(3), record)
  child = record | {
    "stage": "target",
    "parent": {"checkpoint": "checkpoint_3", "stage": "joint"},
    "data": {"mart": {}},
  }
  state = make_state(5)
  params = {**state.params, "head": state.params["norm"]}
  del params["norm"]
  save(folder / "target", 5, state._replace(params=params), child)
  return folder


def run(capsys, *argv):
  status = main(["checkpoint", *map(str, argv)])
  captured = capsys.readouterr()
  return status, captured.out, captured.err


def test_show_prints_tree_totals_and_story(stages, capsys):
  status, shown, _ = run(capsys, "show", stages / "target")
  assert status == 0
  lines = shown.splitlines()
  assert lines[0] == str(stages / "target" / "checkpoint_5")
  cells = {line.split()[0]: line.split() for line in lines if line}
  assert cells["target/embed/embedding"][1:3] == ["16×4", "float32"]
  assert cells["target/embed/embedding"][-1] == "256"
  assert cells["state/step"][1:3] == ["scalar", "int32"]
  assert "target: 68 elements, 272 bytes" in shown
  assert "target, step 5" in shown
  assert "checkpoint_3 of stage joint" in shown
  assert "data      mart" in shown
  assert "jax 0.10.2" in shown
  assert "validation ndcg@10 0.25" in shown
  assert "from scratch" in run(capsys, "show", stages / "joint")[1]


def test_show_prints_the_whole_lineage(stages, capsys):
  _, shown, _ = run(capsys, "show", stages / "joint", "--lineage")
  assert '"versions": {' in shown


def test_diff_of_the_same_says_so(stages, capsys):
  status, shown, _ = run(
    capsys, "diff", stages / "joint", stages / "joint" / "checkpoint_3"
  )
  assert (status, shown) == (0, "the checkpoints are equal\n")


def test_diff_names_arrays_values_and_lineage(stages, capsys):
  status, shown, _ = run(capsys, "diff", stages / "joint", stages / "target")
  lines = shown.splitlines()
  assert status == 1
  assert "- target/norm/scale" in lines
  assert "+ target/head/scale" in lines
  [changed] = [line for line in lines if "target/embed/embedding" in line]
  assert changed.startswith("~ target/embed/embedding: largest change 2, rel")
  assert '~ lineage.stage: "joint" -> "target"' in lines
  assert not [line for line in lines if "rng" in line or "versions" in line]


def test_diff_of_shapes_reads_no_array(stages, capsys, monkeypatch):
  monkeypatch.setattr(store, "read_arrays", None)
  status, shown, _ = run(
    capsys, "diff", stages / "joint", stages / "target", "--shapes"
  )
  assert status == 1
  assert "embedding" not in shown


def test_dry_run_says_which_are_meant(stages, capsys):
  status, shown, _ = run(capsys, "show", stages / "joint", "--dry_run")
  assert (status, shown.strip()) == (0, str(stages / "joint" / "checkpoint_3"))


def test_a_folder_of_stages_is_an_error_that_names_them(stages, capsys):
  status, _, said = run(capsys, "show", stages)
  assert status == 1
  assert f"stages: {stages.name}/joint, {stages.name}/target" in said
