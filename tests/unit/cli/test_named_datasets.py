"""Datasets by name on the command line of `calrec data`."""

import gin
import pytest

from calrec_jax import config
from calrec_jax.cli import named_datasets
from calrec_jax.cli.data import main
from calrec_jax.data import dataset
from tests.fixtures import amazon_toys


@pytest.fixture(autouse=True)
def clean_gin():
  yield
  gin.clear_config()


def test_categories_in_a_folder(tmp_path):
  configuration = named_datasets.configure(
    config.Configuration(),
    ["amazon2018/Video_Games", "amazon2014/beauty"],
    str(tmp_path),
  )
  configuration.apply()
  made = dataset.Dataset()
  assert made.names() == ("amazon2018_video_games", "amazon2014_beauty")
  assert made.mixtures == {"stage_one": made.names()}
  assert {d.source.manual_dir for d in made.domains} == {str(tmp_path)}


def test_all_categories_of_a_release():
  named_datasets.configure(
    config.Configuration(), ["amazon2023/all"], None
  ).apply()
  names = dataset.Dataset().names()
  assert len(names) == 34
  assert "amazon2023_handmade_products" in names


def test_departments():
  configuration = named_datasets.configure(
    config.Configuration(), ["completejourney/nutrition"], None
  )
  configuration.apply()
  assert dataset.Dataset().names() == ("nutrition",)


def test_the_command_line_wins():
  requested = config.Configuration(bindings=("Domain.min_count = 3",))
  named_datasets.configure(requested, ["amazon2018/Software"], None).apply()
  assert dataset.Dataset().domains[0].min_count == 3


@pytest.mark.parametrize(
  ("names", "folder", "message"),
  [
    (["amazon2081/Books"], None, "Did you mean 'amazon2018'"),
    (["amazon2018"], None, "is no dataset's name"),
    (["amazon2018/Books", "completejourney/produce"], None, "several families"),
    ([], "here", "--manual_dir needs the name"),
  ],
)
def test_errors(names, folder, message):
  with pytest.raises(config.ConfigurationError, match=message):
    named_datasets.configure(config.Configuration(), names, folder)


@pytest.mark.slow
def test_a_category_as_a_user_builds_it(tmp_path, capfd):
  amazon_toys.write_release(tmp_path, "amazon2018", "Toys_and_Games")
  flags = [
    "amazon2018/Toys_and_Games",
    f"--manual_dir={tmp_path}",
    f"--gin.Dataset.data_dir='{tmp_path}/data'",
    "--gin.VOCABULARY_SIZE=320",
    "--quiet",
  ]
  assert main(["build", *flags]) == 0
  assert (
    "purchase_histories/amazon2018_toys_and_games-" in capfd.readouterr().out
  )
  assert main(["cache", *flags]) == 0
  assert "6 items, 8 train" in capfd.readouterr().out
  assert main(["card", *flags]) == 0
  assert "Title: Chess & Checkers." in capfd.readouterr().out
  assert main(["show", *flags, "--split=test"]) == 0
  assert "5 items in the history" in capfd.readouterr().out
