"""Encodings: what is detected, what is noted, and what broken bytes become."""

import codecs
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.files import encodings

GERMAN = "Kunde;Titel\nä1;Grüner Tee für Köln, süß\n" * 200


@pytest.mark.parametrize(
  ("data", "name"),
  [
    (codecs.BOM_UTF8 + b"a,b\n", "utf-8"),
    ("a,é\n".encode("utf-16"), "utf-16-le"),
    (codecs.BOM_UTF16_BE + "a,é\n".encode("utf-16-be"), "utf-16-be"),
    ("a,é\n".encode("utf-32"), "utf-32-le"),
    (GERMAN.encode("utf-16-le"), "utf-16-le"),
    (GERMAN.encode("utf-16-be"), "utf-16-be"),
    (GERMAN.encode(), "utf-8"),
    (GERMAN.encode("cp1252"), "cp1252"),
    (b"user,item\n1,2\n", "utf-8"),
    (b"id\0x,title\n", "utf-8"),  # A zero is no UTF-16.
    ("商品,茶\n".encode() * 50, "utf-8"),
    (b"", "utf-8"),
  ],
)
def test_detection(data, name):
  assert encodings.detect([data]).name == name


@pytest.mark.parametrize("name", ["gb18030", "shift_jis", "cp1251", "koi8-r"])
def test_other_scripts_are_not_guessed(name):
  text = "товар,книга\n" if name in ("cp1251", "koi8-r") else "商品,茶葉\n"
  encoding = encodings.detect([(text * 100).encode(name)])
  assert encoding == ("utf-8", b"", "unknown")
  problems = problems_lib.Problems()
  encodings.note(encoding, "log.csv", problems)
  (note,) = problems.notes()
  assert note.severity == "wrong"
  assert "LogFiles.encoding" in note.remedy


def test_a_few_broken_bytes_stay_utf_8():
  data = GERMAN.encode() + b"\xff\xfe broken \xe4\n"
  assert encodings.detect([data]) == ("utf-8", b"", "")


def test_a_late_umlaut_is_found_by_a_probe_or_named():
  head = b"user,item\n" * 1000
  late = "Grüner Tee\n".encode("cp1252") * 5
  assert encodings.detect([head, late]).name == "cp1252"
  encoding = encodings.detect([head])
  problems = problems_lib.Problems()
  encodings.note_broken(encoding, "log.csv", 5, problems)
  assert 'LogFiles.encoding = "cp1252"' in problems.notes()[0].remedy


def test_a_sample_may_end_within_a_character():
  data = "é".encode() * 100
  assert encodings.detect([data[:-1], data[1:]]) == ("utf-8", b"", "")


def test_cp1252_is_noted_with_the_setting():
  problems = problems_lib.Problems()
  encoding = encodings.choose(None, [GERMAN.encode("cp1252")])
  encodings.note(encoding, "log.csv", problems)
  assert problems.notes()[0].remedy == 'LogFiles.encoding = "cp1252"'


@pytest.mark.parametrize("name", ["utf-8", "utf8", "UTF-8-SIG"])
def test_a_set_encoding_drops_its_mark(name):
  found = encodings.choose(name, [codecs.BOM_UTF8 + b"a"])
  assert found == ("utf-8", codecs.BOM_UTF8, "")
  assert encodings.choose(name, [b"a"]) == ("utf-8", b"", "")


def test_utf_16_as_set_follows_the_mark_or_the_zeros():
  assert encodings.choose("utf-16", ["a".encode("utf-16")])[0] == "utf-16-le"
  be = "abcdefg\n".encode("utf-16-be")
  assert encodings.choose("utf-16", [be])[0] == "utf-16-be"
  assert encodings.choose("utf-16-le", [be])[0] == "utf-16-le"


@pytest.mark.parametrize("name", ["utf-9", "base64", ""])
def test_unknown_encodings_are_refused(name):
  with pytest.raises(ValueError, match=r"LogFiles\.encoding"):
    encodings.choose(name, [b""])


NAMES = st.sampled_from(["utf-8", "utf-16-le", "utf-16-be", "utf-32-le"])


@given(st.text(max_size=60), NAMES, st.booleans())
def test_text_and_utf_8_give_back_what_was_written(text, name, mark):
  bom = {value: key for key, value in encodings._MARKS}[name] if mark else b""
  data = bom + text.encode(name)
  encoding = encodings.Encoding(name, bom)
  with encodings.text(io.BufferedReader(io.BytesIO(data)), encoding) as stream:
    assert stream.read() == text
  assert encodings.utf8(io.BytesIO(data), encoding).read() == text.encode()


@given(st.binary(max_size=60), NAMES)
def test_what_is_not_text_is_never_utf_8(data, name):
  encoding = encodings.Encoding(name)
  found = encodings.utf8(io.BytesIO(data), encoding).read()
  try:
    expected = data.decode(name).encode()
  except UnicodeDecodeError:
    with pytest.raises(UnicodeDecodeError):
      found.decode()
  else:
    assert found == expected
