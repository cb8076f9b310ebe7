"""Compressed streams: told by their bytes, whole or an error."""

import bz2
import gzip
import io
import lzma

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.logs.files import containers

PACK = {
  "gzip": gzip.compress,
  "bz2": bz2.compress,
  "xz": lzma.compress,
  "zstd": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}
TEXT = b"".join(b"line %d\n" % i for i in range(20_000))


def unpack(data, size=1 << 16):
  stream, method = containers.unpack(io.BytesIO(data), "log.csv", size=size)
  return stream.read(), method


@pytest.mark.parametrize("method", PACK)
def test_unpacks_one_and_several_members(method):
  packed = PACK[method](TEXT)
  assert unpack(packed) == (TEXT, method)
  assert unpack(packed + PACK[method](b"more"))[0] == TEXT + b"more"
  assert unpack(PACK[method](b"")) == (b"", method)


def test_plain_bytes_stay():
  assert unpack(TEXT) == (TEXT, None)
  assert unpack(b"") == (b"", None)
  for data in (b"B", b"BZhID,item\n", b"BZh1,item\n"):
    assert unpack(data) == (data, None)


@pytest.mark.parametrize("method", PACK)
@pytest.mark.parametrize("damage", ["cut", "cut_second", "garbage", "flipped"])
def test_damage_is_never_a_short_file(method, damage):
  packed = PACK[method](TEXT)
  middle = len(packed) // 2
  damaged = {
    "cut": packed[:-5],
    "cut_second": packed + packed[:-5],
    "garbage": packed + b"garbage after the end",
    "flipped": packed[:middle]
    + bytes(code ^ 0x55 for code in packed[middle : middle + 8])
    + packed[middle + 8 :],
  }[damage]
  # Frames of zstd have a checksum only on request.
  if (method, damage) == ("zstd", "flipped"):
    pytest.skip("may be valid")
  with pytest.raises(ValueError, match=r"log\.csv:\d+: the compressed data"):
    unpack(damaged)


def test_damage_names_the_line(tmp_path):
  packed = gzip.compress(TEXT)
  stream, _ = containers.unpack(
    io.BytesIO(packed[: len(packed) // 2]), "x", size=1 << 12
  )
  with pytest.raises(containers.DamagedError) as raised:
    list(iter(lambda: stream.read(1 << 12), b""))
  assert int(str(raised.value).split(":")[1]) > 1000


@pytest.mark.parametrize("method", PACK)
def test_a_bomb_comes_in_pieces(method):
  packed = io.BytesIO(PACK[method](bytes(1 << 26)))
  sizes = [len(p) for p in containers.pieces(packed, method, 1 << 16)]
  assert sum(sizes) == 1 << 26
  assert max(sizes) <= 1 << 16


class Trickle(io.RawIOBase):
  """A server that returns fewer bytes than requested."""

  def __init__(self, data):
    self._data = io.BytesIO(data)

  def readable(self):
    return True

  def readinto(self, buffer):
    part = self._data.read(min(len(buffer), 3))
    buffer[: len(part)] = part
    return len(part)


@given(st.binary(max_size=300), st.sampled_from([None, *PACK]))
def test_any_bytes_from_a_slow_server(data, method):
  packed = PACK[method](data) if method else data
  if method is None and containers.kind(data[: containers.HEAD_BYTES]):
    return
  stream, found = containers.unpack(Trickle(packed), "x")
  assert (stream.read(), found) == (data, method)
