"""`--run` finds the files of a run from any folder."""

from __future__ import annotations

import pytest

from calrec_jax import config
from calrec_jax.cli import of_run

CONFIG = """
import calrec_jax.data.logs.log_files
LogFiles.interactions = ["products.csv", "more/*.csv"]
LogFiles.items = "s3://shop/items.csv"
LogFiles.orders = "orders.csv"
"""


@pytest.mark.parametrize("name", ["interactions", "orders"])
def test_every_file_of_a_log_is_relative_to_the_run(
  tmp_path, monkeypatch, name
):
  path = tmp_path / "config.gin"
  path.write_text(CONFIG)
  there = tmp_path / "there"
  here = tmp_path / "here"
  here.mkdir()
  monkeypatch.chdir(here)
  config.Configuration(files=(str(path),)).apply()
  bindings = "\n".join(of_run._paths_from(there))
  expected = {
    "interactions": [there / "products.csv", there / "more/*.csv"],
    "orders": [there / "orders.csv"],
  }
  assert f"LogFiles.{name}=" in bindings
  for file in expected[name]:
    assert repr(str(file)) in bindings
  assert "items" not in bindings
