"""TFDS datasets: each document once, whichever process writes it."""

import pathlib
import shutil
import subprocess
import types

import numpy as np
import pytest
from etils import epath

from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs.columns import text as text_lib
from calrec_jax.storage import build_lock


class Log:
  """A source of made-up purchases."""

  default_fields = (text_lib.Field("Title", "title"),)

  def __init__(self, users, most):
    self._users, self._most = users, most

  def inputs(self):
    return []

  def fingerprint(self):
    return {"users": self._users, "most": self._most}

  def read(self, problems, columns):
    random = np.random.default_rng(0)
    users = np.repeat(
      np.arange(self._users), random.integers(1, self._most + 1, self._users)
    )
    items = events_lib.Items(
      item_ids=[f"i{n}" for n in range(30)],
      columns={"title": [f"tea {n} é{'!' * n}" for n in range(30)]},
      file="made up",
      lines=np.arange(30),
      num_rows=30,
    )
    return events_lib.Events(
      users=users.astype(np.int32),
      items=random.integers(0, 30, len(users)).astype(np.int32),
      timestamps=random.integers(-(10**12), 10**12, len(users)),
      user_ids=[f"u{n}" for n in range(self._users)],
      num_rows=len(users),
    ), items


def prepare(users=200, most=12):
  return domain_lib.Domain(
    name="toys", source=Log(users, most), min_count=1, max_history=8
  ).prepare()


@pytest.fixture(scope="module")
def builder():
  from calrec_jax.data.seqio import builder

  return builder


def build(builder, prepared, folder, **options):
  builder.write(
    prepared, config="c", data_dir=str(folder), progress=False, **options
  )
  return builder.tfds.builder(builder.full_name("c"), data_dir=str(folder))


def read(opened, split):
  return list(opened.as_dataset(split=split).as_numpy_iterator())


def test_a_dataset_holds_every_document_once(builder, tmp_path):
  prepared = prepare()
  opened = build(builder, prepared, tmp_path)
  log = prepared.events
  for split, part in prepared.documents.items():
    assert opened.info.splits[split].num_examples == len(part)
    examples = {e["user_id"].decode(): e for e in read(opened, split)}
    assert len(examples) == len(part)
    for user, start, stop in zip(
      part.users, part.starts, part.stops, strict=True
    ):
      example = examples[log.user_ids[user]]
      assert example["events"].tolist() == list(range(start, stop))
      items = log.items[start:stop].tolist()
      assert example["items"].tolist() == items
      assert (
        example["timestamps"].tolist() == log.timestamps[start:stop].tolist()
      )
      assert [text.decode() for text in example["texts"]] == [
        prepared.texts[item] for item in items
      ]
      assert [text.decode() for text in example["item_ids"]] == [
        prepared.item_ids[item] for item in items
      ]
  catalogue = read(opened, "catalogue")
  assert sorted(e["items"].item() for e in catalogue) == list(range(30))
  for example in catalogue:
    row = example["items"].item()
    assert example["texts"][0].decode() == prepared.texts[row]
    assert example["user_id"] == b""
    assert len(example["events"]) == len(example["timestamps"]) == 0


def test_the_predicted_size_is_about_that_of_the_files(builder, tmp_path):
  prepared = prepare()
  opened = build(builder, prepared, tmp_path)
  predicted = builder.examples_lib.Examples.of(prepared).num_bytes()
  assert 0.5 < predicted / opened.info.dataset_size < 1


def test_a_split_without_documents_is_left_out(builder, tmp_path):
  prepared = prepare(users=40, most=2)  # Too few events to be evaluated.
  assert len(prepared.documents["test"]) == 0
  opened = build(builder, prepared, tmp_path)
  assert set(opened.info.splits) == {"catalogue", "train"}
  assert len(read(opened, "train")) == 40


def test_blocks_of_stored_tables_are_the_same_examples(builder, tmp_path):
  examples = builder.examples_lib.Examples.of(prepare())
  examples.save(epath.Path(tmp_path))
  stored = builder.examples_lib.Examples.load(epath.Path(tmp_path))
  for split in builder.examples_lib.SPLITS:
    count = stored.count(split)
    assert count == examples.count(split) > 0
    blocks = [
      row
      for start in range(0, count, 7)
      for row in stored.read(split, start, start + 7)
    ]
    np.testing.assert_equal(blocks, list(examples.read(split)))


def test_a_full_disk_is_a_clear_error(builder, tmp_path, monkeypatch):
  mounted = subprocess.run(
    ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)],
    capture_output=True,
  )
  if mounted.returncode:
    pytest.skip("a small disk cannot be mounted by this user")
  try:
    with pytest.raises(build_lock.DiskFullError, match="needs about"):
      build(builder, prepare(), tmp_path)
    # As if others had filled it meanwhile.
    monkeypatch.setattr(
      shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10**9)
    )
    with pytest.raises(build_lock.DiskFullError, match="needs about"):
      build(builder, prepare(), tmp_path)
    left = [path for path in tmp_path.rglob("*") if "incomplete" in path.name]
  finally:
    subprocess.run(["umount", str(tmp_path)], check=True)
  assert left == []


def test_beam_writes_the_same_examples(builder, tmp_path):
  pytest.importorskip(
    "apache_beam",
    reason="Apache Beam has its own lock, launch/locks/beam-py3.11.txt",
  )
  prepared = prepare()
  here = build(builder, prepared, tmp_path / "here")
  there = build(
    builder,
    prepared,
    tmp_path / "there",
    beam_options=["--runner=DirectRunner"],
  )
  assert set(here.info.splits) == set(there.info.splits)
  for split, info in here.info.splits.items():
    assert there.info.splits[split].num_examples == info.num_examples
    # Also in the same order, that of the keys' hashes.
    np.testing.assert_equal(read(there, split), read(here, split))
  parents = [pathlib.Path(made.data_dir).parent for made in (here, there)]
  assert [[p.name for p in parent.iterdir()] for parent in parents] == [
    ["1.0.0"]
  ] * 2


def test_without_beam_its_options_name_the_remedy(builder, tmp_path):
  try:
    import apache_beam  # noqa: F401
  except ModuleNotFoundError:
    with pytest.raises(ModuleNotFoundError, match=r"locks/beam-py3\.11\.txt"):
      build(builder, prepare(), tmp_path, beam_options=[])
  else:
    pytest.skip("Apache Beam is installed")
