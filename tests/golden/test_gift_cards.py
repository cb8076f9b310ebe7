"""The publisher's own files of a category: what comes of them, step by step.

The files are not part of the project. They are looked for in CALREC_AMAZON_DIR,
or where `calrec data build amazon2018/Gift_Cards` puts them; without them the
test is skipped. `pytest tests/golden --update-goldens` writes the card anew.
"""

import os

import numpy as np
import pytest

from calrec_jax.data import dataset
from calrec_jax.data.domain import card as card_lib
from calrec_jax.data.domain.domain import Domain
from calrec_tasks import amazon, amazon_releases

FOLDER = os.environ.get("CALREC_AMAZON_DIR") or os.path.join(
  dataset.default_folder(), "downloads", "amazon2018"
)
SOURCE = amazon.AmazonReviews(
  release="amazon2018", category="Gift_Cards", manual_dir=FOLDER
)


def are_there():
  try:
    return bool(SOURCE.files())
  except FileNotFoundError:
    return False


@pytest.mark.skipif(
  not are_there(),
  reason="no Gift_Cards_5.json.gz; CALREC_AMAZON_DIR names its folder",
)
def test_the_card_of_the_publishers_own_files(golden):
  domain = Domain(name="amazon2018_gift_cards", source=SOURCE)
  prepared = domain.prepare()
  card = card_lib.build_card(
    domain,
    prepared,
    item_tokens=[
      np.frombuffer(text.encode(), np.uint8) for text in prepared.texts
    ],
    vocabulary={"size": 256, "sha256": "0" * 64},
    leakage_checks=[],
  )
  known = amazon_releases.checksums("amazon2018")
  assert {row["file"]: row["sha256"] for row in card["inputs"]} == known
  golden("gift_cards_card.txt", card_lib.render(card) + "\n")
