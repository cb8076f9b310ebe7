"""A limit on texts without blanks."""

import base64

import pytest

from calrec_jax.data.logs.columns import long_words, text

FIELD = text.Field("Title", "title", max_words=40)


@pytest.mark.parametrize("letter", ["茶", "ช", "あ", "ក", "x"])
def test_long_texts_without_blanks_are_cut(letter):
  kept = text.cut(letter * 300_000, FIELD)
  assert 150 <= len(kept) <= 880
  assert set(kept) == {letter}


def test_a_blob_is_cut():
  blob = base64.b64encode(bytes(range(256)) * 4096).decode()
  assert len(text.cut(blob, FIELD)) == 880


@pytest.mark.parametrize(
  "ordinary",
  [
    "Grüner Tee",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamten",
    " ".join(["internationalisation"] * 40),
    "【公式】緑茶 ティーバッグ 50袋 国産 送料無料 " * 3 + "静岡県産",
  ],
)
def test_ordinary_texts_stay(ordinary):
  assert text.cut(ordinary, FIELD) == ordinary


@pytest.mark.parametrize(
  "cluster",
  ["e\u0301", "👩\u200d👩\u200d👧", "👍🏽", "🇩🇪", "ชื่", "เท", "น้ำ", "❤\ufe0f"],
)
def test_no_cut_is_inside_a_character(cluster):
  for before in range(len(cluster)):
    kept = long_words.cut("x" * before + cluster * 3000, 5)
    rest = kept[before:]
    assert rest
    assert len(rest) % len(cluster) == 0


def test_a_text_of_nothing_but_marks_is_cut_all_the_same():
  assert len(long_words.cut("\u0301" * 10_000, 1)) == 100
