"""Formats: bytes decide, suffixes refuse."""

import io
import pickle
import tarfile

import pytest

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.files import formats


def packed_tar():
  stream = io.BytesIO()
  with tarfile.open(fileobj=stream, mode="w") as archive:
    archive.addfile(tarfile.TarInfo("a.csv"))
  return stream.getvalue()


@pytest.mark.parametrize(
  ("head", "said"),
  [
    (pickle.dumps({"a": 1}), "pickle can run any code"),
    (pickle.dumps([1, 2], protocol=2), "pickle can run any code"),
    (packed_tar(), "tar archive"),
    (b"  <!DOCTYPE html><html>", "web page"),
    (b'<?xml version="1.0"?>', "web page or XML"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    (b"Obj\x01\x04", "Avro"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1", "Save it as .xlsx"),
    (b"\x89HDF\r\n\x1a\n", "pandas"),
    (b"SQLite format 3\0", "Export the table"),
  ],
)
def test_what_is_not_read_is_refused_with_the_way_out(head, said):
  with pytest.raises(ValueError, match=said) as raised:
    formats.of_bytes(head, "part-0")
  assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
  "suffix",
  [".ods", ".pkl", ".npz", ".mat", ".h5", ".sas7bdat", ".avro", ".sql", ".tar"],
)
def test_suffixes_that_are_refused(suffix):
  with pytest.raises(ValueError, match=f"log{suffix}: {suffix} is not read"):
    formats.refuse_unread(f"log{suffix}", suffix)


@pytest.mark.parametrize("head", [b"user,item\n", b"[1,", b"\x80\x81,x\n", b""])
def test_text_is_no_binary_format(head):
  assert formats.of_bytes(head, "x") is None


@pytest.mark.parametrize(
  ("text", "suffix", "format"),
  [
    ("user,item\n1,2\n", "", "csv"),
    ("user,item\n1,2\n", ".json", "csv"),
    ('er": 5}\n{"user": 1}\n', ".json", "json"),
    ('{"a": 1}\n', "", "json"),
    ('\n \n[{"a": 1}]', ".csv", "json"),
    ("[user],[item]\n[1],[2]\n", ".csv", "csv"),
    ("{u'a': 1}\n", ".txt", "json"),
    ('{"a": 1},x\n', ".csv", "csv"),
    ("{broken\n", ".jsonl", "json"),
    ("", ".dat", "csv"),
  ],
)
def test_format_of_text(text, suffix, format):
  assert formats.of_text(text, suffix) == format


def test_a_suffix_that_is_wrong_is_said():
  problems = problems_lib.Problems()
  formats.note_suffix("json", "log.csv", ".csv", problems)
  assert "read as json" in problems.notes()[0].message
  for found, suffix in (("csv", ".tsv"), ("csv", ".x"), ("sequences", ".txt")):
    problems = problems_lib.Problems()
    formats.note_suffix(found, "log", suffix, problems)
    assert not problems.notes()
