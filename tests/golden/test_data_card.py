"""An adversarial log: its card and one of its prompts, word for word.

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


def describe(folder):
  domain, prepared = prepare(folder)
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
  assert describe(tmp_path) == GOLDEN.read_text("utf-8")


def test_rows_are_used_or_counted(tmp_path):
  _, prepared = prepare(tmp_path)
  steps = {step["step"]: step for step in prepared.steps}
  of_events = sum(
    problem["count"]
    for problem in prepared.problems.as_list()
    if problem["first"].startswith("purchases.csv")
    or problem["kind"] == "event_without_text"
  )
  assert steps["parse"]["events"] == len(PURCHASES) - 1
  assert steps["validate"]["events"] + of_events == len(PURCHASES) - 1


if __name__ == "__main__":
  with tempfile.TemporaryDirectory() as made:
    GOLDEN.write_text(describe(pathlib.Path(made)), "utf-8")
