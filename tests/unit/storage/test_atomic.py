"""A file is the old one or the new one, whatever happens in between."""

import errno
import os
import stat

import pytest

from calrec_jax.storage import atomic


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
  path = tmp_path / "folder" / "file.txt"
  atomic.write_text(path, "old")
  with atomic.replacing(path) as part:
    part.write_text("ne")
    assert path.read_text() == "old"
    assert part.parent == path.parent
  assert path.read_text() == "ne"
  assert os.listdir(path.parent) == ["file.txt"]


def test_a_failing_write_leaves_the_old_file(tmp_path):
  path = tmp_path / "file.txt"
  path.write_text("old")

  def fail():
    with atomic.replacing(path) as part:
      part.write_text("half")
      raise OSError("disk full")

  with pytest.raises(OSError, match="disk full"):
    fail()
  assert os.listdir(tmp_path) == ["file.txt"]
  assert path.read_text() == "old"


def test_others_may_read_what_the_umask_allows(tmp_path):
  before = os.umask(0o027)
  try:
    atomic.write_text(tmp_path / "file.txt", "ä")
  finally:
    os.umask(before)
  mode = stat.S_IMODE((tmp_path / "file.txt").stat().st_mode)
  assert mode == 0o640
  assert (tmp_path / "file.txt").read_bytes() == "ä".encode()


def test_a_folder_appears_when_it_is_whole(tmp_path):
  path = tmp_path / "made" / "folder"
  with atomic.new_folder(path) as part:
    (part / "file.txt").write_text("x")
    assert not path.exists()
    assert part.name.startswith(".folder-")
  assert os.listdir(path.parent) == ["folder"]
  assert os.listdir(path) == ["file.txt"]


def test_a_failing_folder_leaves_nothing(tmp_path):
  def fail():
    with atomic.new_folder(tmp_path / "folder") as part:
      (part / "file.txt").write_text("half")
      raise OSError("disk full")

  with pytest.raises(OSError, match="disk full"):
    fail()
  assert os.listdir(tmp_path) == []


def test_a_folder_that_another_process_published_stays(tmp_path):
  def publish(**options):
    with atomic.new_folder(tmp_path / "folder", **options) as part:
      (part / "file.txt").write_text("new")

  (tmp_path / "folder").mkdir()
  (tmp_path / "folder" / "file.txt").write_text("old")
  publish(or_existing=True)
  assert (tmp_path / "folder" / "file.txt").read_text() == "old"
  with pytest.raises(OSError, match="not empty"):
    publish()
  assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("path", ["file.txt", "folder"])
def test_an_error_names_the_path_that_was_to_be_written(tmp_path, path):
  full = OSError(errno.ENOSPC, "No space left on device")
  context = atomic.replacing if path == "file.txt" else atomic.new_folder
  with (
    pytest.raises(OSError, match=str(tmp_path / path)) as raised,
    context(tmp_path / path),
  ):
    raise full
  assert raised.value.errno == errno.ENOSPC
  assert not (tmp_path / path).exists()
