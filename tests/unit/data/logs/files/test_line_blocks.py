"""Blocks of whole lines: every byte once, and damage named with its line."""

import gzip
import io

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from calrec_jax.data.logs.files import line_blocks


def lines_of(blocks):
  return [
    (block.first_line + i, line)
    for block in blocks
    for i, line in enumerate(io.BytesIO(block.data))
  ]


@pytest.mark.parametrize("packed", [False, True])
@given(
  data=st.binary(max_size=200) | st.text("ab\n", max_size=60).map(str.encode),
  block_bytes=st.integers(3, 40),
)
def test_lines_and_their_numbers(tmp_path_factory, packed, data, block_bytes):
  path = tmp_path_factory.mktemp("lines") / "file"
  path.write_bytes(gzip.compress(data) if packed else data)
  assume(packed or not data.startswith(b"\x1f\x8b"))
  read = list(line_blocks.read(str(path), block_bytes=block_bytes))
  data = data.removeprefix(b"\xef\xbb\xbf")
  assert b"".join(block.data for block in read) == data
  assert lines_of(read) == list(enumerate(io.BytesIO(data), start=1))


def test_the_bytes_of_the_file_are_reported(tmp_path):
  path = tmp_path / "file.gz"
  path.write_bytes(gzip.compress(b"one line\n" * 5000))
  reported = []
  list(line_blocks.read(str(path), block_bytes=1000, on_bytes=reported.append))
  assert sum(reported) == path.stat().st_size


def test_a_cut_file_is_an_error_that_names_the_line(tmp_path):
  path = tmp_path / "file.gz"
  whole = gzip.compress(b"".join(b"%d\n" % i for i in range(50_000)))
  path.write_bytes(whole[: len(whole) // 2])
  seen = []

  def read():
    for block in line_blocks.read(str(path), block_bytes=4096):
      seen.extend(lines_of([block]))

  with pytest.raises(ValueError, match=r"file\.gz:\d+: .* end too early"):
    read()
  assert seen == [(i + 1, b"%d\n" % i) for i in range(len(seen))]
  assert seen


def test_damage_in_the_middle_is_an_error(tmp_path):
  path = tmp_path / "file.gz"
  whole = bytearray(gzip.compress(bytes(range(256)) * 64 + b"\n"))
  whole[len(whole) // 2] ^= 0xFF
  path.write_bytes(whole)
  with pytest.raises(ValueError, match=r"file\.gz:1: "):
    list(line_blocks.read(str(path)))


def test_a_line_without_end_is_an_error(tmp_path, monkeypatch):
  monkeypatch.setattr(line_blocks, "MAX_LINE_BYTES", 1000)
  path = tmp_path / "file"
  path.write_bytes(b"short\n" + b"x" * 5000)
  with pytest.raises(ValueError, match=r"file:2: this line is longer"):
    list(line_blocks.read(str(path), block_bytes=100))


def test_several_members_with_zeros_between_and_after(tmp_path):
  path = tmp_path / "file.gz"
  parts = [gzip.compress(b"%d\n" % i * 3000) for i in range(3)]
  path.write_bytes(b"\0\0".join(parts) + b"\0" * 1000)
  (tmp_path / "plain").write_bytes(gzip.decompress(path.read_bytes()))
  for size in (1, 700, 1 << 20):
    packed = line_blocks.read(str(path), block_bytes=size)
    plain = line_blocks.read(str(tmp_path / "plain"))
    assert lines_of(packed) == lines_of(plain)


def test_what_unpacks_to_much_more_comes_in_pieces(tmp_path):
  path = tmp_path / "file.gz"
  path.write_bytes(gzip.compress(b"0123456\n" * (1 << 20)))
  sizes = [
    len(block.data)
    for block in line_blocks.read(str(path), block_bytes=1 << 16)
  ]
  assert sum(sizes) == 1 << 23
  assert max(sizes) <= 2 << 16


def test_garbage_after_the_data_is_an_error(tmp_path):
  path = tmp_path / "file.gz"
  path.write_bytes(gzip.compress(b"one\n") + b"garbage")
  with pytest.raises(ValueError, match=r"file\.gz:2: the compressed data"):
    list(line_blocks.read(str(path)))
