"""A cache that is built again has the bytes of an earlier release's.

Its card says more than the earlier one, which it contains; and there is a file
more, with the newest purchases of all users.
"""

import hashlib
import json
import pathlib
import shutil
import tarfile

import pytest

from calrec_jax.__main__ import main

ARCHIVE = pathlib.Path(__file__).parents[1] / "fixtures/earlier_run.tar.gz"


def hashes(folder):
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob("*"))
    if path.is_file() and ".locks" not in path.parts
  }


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
  folder = tmp_path_factory.mktemp("earlier")
  with tarfile.open(ARCHIVE) as archive:
    members = [m for m in archive if m.name.split("/")[1:2] != ["model"]]
    archive.extractall(folder, members, filter="data")
  return folder / "earlier_run"


def cards(folder):
  """The card of the only cache, and the hashes in its marker."""
  [card] = folder.glob("caches/*/card.json")
  marker = json.loads(card.with_name("COMPLETED").read_text())
  files = {name: file["sha256"] for name, file in marker["files"].items()}
  return json.loads(card.read_text()), files


def test_names_and_bytes_of_all_files_are_as_they_were(earlier, monkeypatch):
  before, (card_before, marked_before) = (
    hashes(earlier / "data"),
    cards(earlier / "data"),
  )
  [folder] = {
    name[: name.rindex("/")] for name in before if "COMPLETED" in name
  }
  assert folder.startswith("caches/shop-")
  shutil.rmtree(earlier / "data" / "caches")
  monkeypatch.chdir(earlier)
  assert main(["data", "cache", "--quiet", "--gin_file=shop.gin"]) == 0
  after, (card, marked) = hashes(earlier / "data"), cards(earlier / "data")
  assert after.keys() - before.keys() == {f"{folder}/everybody.parquet"}
  changed = {name for name in before if after.get(name) != before[name]}
  assert changed == {f"{folder}/card.json", f"{folder}/COMPLETED"}
  assert {name: card.get(name) for name in card_before} == card_before
  assert card.keys() - card_before.keys() == {
    *("reading", "times", "notes", "excluded")
  }
  assert marked.keys() == marked_before.keys()
  for name, sha256 in marked.items():
    assert after[f"{folder}/{name}"] == sha256
