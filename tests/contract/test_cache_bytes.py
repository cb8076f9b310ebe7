"""A cache that is built again has the bytes of an earlier release's."""

import hashlib
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


def test_names_and_bytes_of_all_files_are_as_they_were(earlier, monkeypatch):
  before = hashes(earlier / "data")
  assert any(name.startswith("caches/shop-") for name in before)
  shutil.rmtree(earlier / "data" / "caches")
  monkeypatch.chdir(earlier)
  assert main(["data", "cache", "--quiet", "--gin_file=shop.gin"]) == 0
  assert hashes(earlier / "data") == before
