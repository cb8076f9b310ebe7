"""Adversarial logs: their cards and one of their prompts, word for word.

`python tests/golden/test_data_card.py` writes the golden files anew.
"""

import json
import pathlib
import tempfile

import numpy as np

from calrec_jax.data.domain import card as card_lib
from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.domain.prompt import Prompt
from calrec_jax.data.logs.log_files import LogFiles

GOLDEN = pathlib.Path(__file__).parent / "data_card.txt"
GOLDEN_OF_EXPORT = pathlib.Path(__file__).parent / "data_card_of_export.txt"

PURCHASES = [
  b"who,what,when,comment",
  *(b"ann,soap,2024-01-%02d," % day for day in (5, 1, 9)),  # Not in order.
  b'ann,soap,2024-01-09T00:00:00Z,"twice\r\nat once"',  # A tie, a repeat.
  b"ann,tea,2024-01-02T08:00:00+02:00,",
  b"ann,tea2,2024-01-03,",  # The same text under another id.
  b"ann,rice,2024-01-10,",
  b"bob,rice,2024-02-01,",
  b"bob,tea,2024-02-01,",  # Two at once: the order of the file holds.
  b"bob,soap,2024-02-02,",
  b"bob,rice,2024-02-03,",
  b"bob,ghost,2024-02-04,",  # Not in the catalogue.
  b"bob,blank,2024-02-04,",  # Nothing is said about it.
  b",soap,2024-02-04,",
  b"bob,,2024-02-04,",
  b"bob,soap,tomorrow,",
  b"bob,soap,2024-02-05",  # Too short.
  b"b\xf6b,soap,2024-02-05,",
  b"eve,soap,2024-03-01,",  # Too few purchases.
]
PRODUCTS = [
  {"what": "soap", "name": "Soap &amp; Co\n", "kind": [["Bath"], ["Bath"]]},
  {"what": "tea", "name": "Tea 40\u00a0bags.", "price": "$1,002.5"},
  {"what": "tea2", "name": "Tea 40 bags", "price": 1002.5},
  {"what": "rice", "name": "Rice " + "very " * 9 + "long", "price": "ask us"},
  {"what": "rice", "name": "Other rice"},
  {"what": "blank", "name": "\u200b"},
]


EXPORT = [
  "Kunde;Artikel;Name;Preis;Menge;Art;Sterne;Zeit;Notiz",
  "anna;01;Tee;1,50;2;kauf;5;24.12.2023 08:00;",
  "anna;02;Kaffee;12,00;-1;kauf;4;24.12.2023 09:00;",  # A return.
  "anna;02;Kaffee;12,00;1;kauf;4;24.12.2023 09:00;",
  "anna;02;Kaffee;12,00;1;kauf;4;24.12.2023 09:00;",  # Exported twice.
  'anna;03;Milch;0,99;1;kauf;3;25.12.2023 10:00;"zwei',
  'Zeilen"',
  "",
  "bert;01;Tee;1,50;1;sicht;5;25.12.2023 11:00;",  # Only looked at.
  "bert;03;Milch;0,99;0;kauf;5;25.12.2023 12:00;",  # None of it.
  "bert;01;Tee;1,50;1;kauf;1;25.12.2023 13:00;",
  "bert;02;Kaffee;12,00;1;kauf;2;26.12.2023 14:00;",
  "bert;03;Milch;0,99;3;kauf;5;27.12.2023 15:00;",
  "bert;03",
]


def export(folder):
  """A shop's export in the manner of Germany, with a condition."""
  path = folder / "export.csv"
  path.write_text("\r\n".join(EXPORT) + "\r\n", "utf-8", newline="")
  domain = domain_lib.Domain(
    name="shop",
    source=LogFiles(
      interactions=str(path),
      user_column="Kunde",
      item_column="Artikel",
      time_column="Zeit",
      text_columns={"title": "Name", "price": "Preis"},
      where='Art == "kauf" and Menge > 0',
    ),
    fields=(("Title", "title"), ("Price", "price")),
    min_count=1,
  )
  return domain, domain.prepare()


def prepare(folder):
  (folder / "purchases.csv").write_bytes(b"\r\n".join(PURCHASES) + b"\r\n")
  (folder / "products.jsonl").write_text("\n".join(map(json.dumps, PRODUCTS)))
  domain = domain_lib.Domain(
    name="corner_shop",
    source=LogFiles(
      folder=str(folder),
      interactions="purchases.csv",
      items="products.jsonl",
      user_column="who",
      item_column="what",
      time_column="when",
      time_unit="iso",
      text_columns={"title": "name", "category": "kind"},
    ),
    fields=(
      ("Title", "title", 6),
      ("Category", "category"),
      ("Price", "price"),
    ),
    min_count=1,
  )
  return domain, domain.prepare()


def describe(domain, prepared):
  tokens = [np.frombuffer(text.encode(), np.uint8) for text in prepared.texts]
  card = card_lib.build_card(
    domain,
    prepared,
    item_tokens=tokens,
    vocabulary={"size": 256, "sha256": "0" * 64},
    leakage_checks=["one", "two"],
  )
  json.dumps(card)
  prompt = Prompt()
  test = prepared.documents["test"]
  rows = prepared.events.items[test.starts[0] : test.stops[0]]
  texts = [prepared.texts[row] + prompt.end for row in rows]
  history = prompt.next.join(texts[:-1])
  return (
    f"{card_lib.render(card)}\n\n"
    f"{prompt.prefix}{prompt.first}{history}{prompt.next}| {texts[-1]}"
  )


def test_the_card_and_the_prompt_are_as_they_were(tmp_path):
  assert describe(*prepare(tmp_path)) == GOLDEN.read_text("utf-8")


def test_the_card_of_an_export_is_as_it_was(tmp_path):
  found = describe(*export(tmp_path))
  assert found == GOLDEN_OF_EXPORT.read_text("utf-8")


def test_each_row_of_an_export_is_used_or_counted_once(tmp_path):
  _, prepared = export(tmp_path)
  steps = {step["step"]: step for step in prepared.steps}
  problems, [reading] = prepared.problems, prepared.problems.reading
  assert reading["lines"] == len(EXPORT)
  assert (
    reading["lines"]
    == sum(
      reading[f"{kind}_lines"] for kind in ("header", "blank", "quoted", "bad")
    )
    + reading["rows"]
  )
  assert steps["parse"]["events"] == reading["rows"] + reading["bad_lines"]
  assert steps["parse"]["events"] == (
    steps["validate"]["events"]
    + sum(problems.excluded.values())
    + sum(problem["count"] for problem in problems.as_list())
  )


def test_cards_do_not_depend_on_the_folder(tmp_path):
  cards = []
  for name in ("one", "another"):
    (tmp_path / name).mkdir()
    cards.append(describe(*export(tmp_path / name)))
    cards[-1] += json.dumps(prepare(tmp_path / name)[1].problems.reading)
  assert cards[0] == cards[1]
  assert str(tmp_path) not in cards[0]


def test_rows_are_used_or_counted(tmp_path):
  _, prepared = prepare(tmp_path)
  steps = {step["step"]: step for step in prepared.steps}
  of_events = sum(
    problem["count"]
    for problem in prepared.problems.as_list()
    if problem["first"].startswith("purchases.csv")
    or problem["kind"] in ("event_without_text", "duplicate_event")
  )
  assert steps["parse"]["events"] == len(PURCHASES) - 1
  assert steps["validate"]["events"] + of_events == len(PURCHASES) - 1


if __name__ == "__main__":
  with tempfile.TemporaryDirectory() as made:
    GOLDEN.write_text(describe(*prepare(pathlib.Path(made))), "utf-8")
    GOLDEN_OF_EXPORT.write_text(describe(*export(pathlib.Path(made))), "utf-8")
