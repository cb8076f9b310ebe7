"""`calrec data` as a user runs it, on a log of a few hundred purchases."""

import re

import gin
import pytest

from calrec_jax.__main__ import main as calrec
from calrec_jax.cli.data import main
from tests.fixtures import vocabulary_toys


@pytest.fixture(autouse=True)
def clean_gin():
  yield
  gin.clear_config()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("mine")
  goods = ["tea", "soap", "rice", "milk", "bread", "salt"]
  rows = ["customer,product,day"]
  rows += [
    f"c{user},{goods[(user + day * (1 + user % 2)) % 6]},2024-01-{day + 1:02}"
    for user in range(12)
    for day in range(20)
  ]
  rows.insert(6, "c0,tea,never")
  (folder / "purchases.csv").write_text("\n".join(rows) + "\n")
  return folder


def flags(folder, *more):
  return [
    "--quiet",
    "--gin_file=data/log.gin",
    f"--gin.INTERACTIONS='{folder}/purchases.csv'",
    f"--gin.Dataset.data_dir='{folder}/data'",
    "--gin.LogFiles.user_column='customer'",
    "--gin.LogFiles.item_column='product'",
    "--gin.LogFiles.time_column='day'",
    "--gin.LogFiles.time_unit='iso'",
    "--gin.LogFiles.text_columns={'title': 'product'}",
    "--gin.VOCABULARY_SIZE=300",
    *more,
  ]


def test_build_cache_card_show(folder, capfd):
  assert main(["build", *flags(folder)]) == 0
  assert "log: purchase_histories/log-" in capfd.readouterr().out
  assert main(["cache", *flags(folder)]) == 0
  assert "log: 6 items, 12 train, 12 validation" in capfd.readouterr().out
  assert main(["card", *flags(folder)]) == 0
  card = capfd.readouterr().out
  assert "1  bad_timestamp       first at purchases.csv:7" in card
  assert main(["show", *flags(folder), "--user=c3", "--split=test"]) == 0
  shown = capfd.readouterr().out
  assert "user c3, 19 items in the history" in shown
  assert "The next item bought is as follows. \n---" in shown
  assert shown.splitlines()[-1] == "Title: salt."  # goods[(3 + 19 * 2) % 6]


def test_without_progress_nothing_but_results_is_printed(folder, capfd):
  assert main(["cache", *flags(folder)]) == 0
  captured = capfd.readouterr()
  assert captured.err == ""
  assert len(captured.out.splitlines()) == 1


def promised(capfd, *words):
  """What a card says of words, repeats and order; without the card itself."""
  assert calrec(["data", "card", *words]) == 0
  said = capfd.readouterr()
  assert said.err == ""
  return said.out.partition("  what this log promises")[2]


def one_line(text):
  return " ".join(text.split())


def test_a_card_says_what_the_log_promises(folder, tmp_path, capfd):
  words = flags(folder, f"--gin.Dataset.data_dir='{tmp_path}'")
  without_cache = promised(capfd, *words)
  for part in (
    "before any training: 12 validation users, candidates: all but the last",
    # Everybody has bought everything: what is new cannot be measured.
    "100.0% of the targets were in the user's history. But 12 users tell",
  ):
    assert part in one_line(without_cache)
  assert "new" not in without_cache
  for name in ("popularity", "sequential_rules (order)", "bm25_history (words"):
    assert f"\n  {name}" in without_cache
  assert not list(tmp_path.glob("caches/*"))
  assert main(["cache", *words]) == 0
  capfd.readouterr()
  assert promised(capfd, *words) == without_cache
  of_all = promised(capfd, *words, "--gin.CANDIDATES='all'")
  assert "candidates: all items" in one_line(of_all)
  records = next(tmp_path.glob("caches/*/validation.arrayrecord"))
  content = records.read_bytes()
  records.write_bytes(content[:70_000].translate(bytes(range(255, -1, -1)))
                      + content[70_000:])  # fmt: skip
  assert calrec(["data", "card", *words]) == 0
  assert "nothing is measured on this log: " in capfd.readouterr().out


def test_progress_is_shown_apart_from_the_results(folder, capfd):
  words = [word for word in flags(folder) if word != "--quiet"]
  assert main(["card", *words]) == 0
  said = capfd.readouterr()
  assert re.search(r"log: measured without training \(\d+\.\d s\)", said.err)
  assert "measured without training" not in said.out


def test_a_card_says_why_nothing_is_measured(tmp_path, capfd):
  rows = [f"c{user},{item},2024-01-0{day}" for user in range(6)
          for day, item in ((1, "tea"), (2, "soap"))]  # fmt: skip
  log = tmp_path / "purchases.csv"
  log.write_text("\n".join(["customer,product,day", *rows]) + "\n")
  few = flags(tmp_path, "--gin.Domain.min_count=1")
  assert main(["card", *few]) == 0
  assert (
    "  nothing is measured on this log: no user has enough events for a "
    "validation target\n"
  ) in capfd.readouterr().out
  log.write_text(log.read_text().replace("soap", "tea"))
  assert main(["card", *few, "--gin.Domain.dedup='none'"]) == 0
  said = capfd.readouterr().out
  assert "nothing is measured on this log: the catalogue has one item" in said


def test_the_vocabulary_of_a_pretrained_model(folder, tmp_path, capfd):
  path = vocabulary_toys.write_sentencepiece_gguf(
    tmp_path / "model.gguf", vocabulary_toys.sentencepiece_model()
  )
  pretrained = flags(
    folder,
    "--gin_file=data/pretrained.gin",
    f"--gin.VOCABULARY_SOURCE='{path}'",
  )
  assert main(["cache", *pretrained]) == 0
  *_, line = capfd.readouterr().out.splitlines()
  assert re.fullmatch(
    r"vocabulary: (384|512) tokens, \d\d\.\d% of the pretrained model's \d+",
    line,
  )
  assert main(["show", *pretrained]) == 0
  shown = capfd.readouterr().out
  assert "\nThe first item bought is as follows.\nTitle: " in shown
  assert "The next item bought is as follows.\n\n---" in shown
  whole = "--gin.PRUNE_VOCABULARY=False"
  assert main(["cache", *pretrained, whole]) == 0
  assert "all of the pretrained model's" in capfd.readouterr().out


def test_dry_run_prints_the_configuration_and_stops(folder, tmp_path, capfd):
  more = (f"--gin.Dataset.data_dir='{tmp_path}/none'", "--dry_run")
  assert main(["cache", *flags(folder, *more)]) == 0
  assert "LogFiles.time_unit = 'iso'" in capfd.readouterr().out
  assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
  ("more", "match"),
  [
    (["--gin.MIXTURE_OR_TASK_NAME='lgo'", "--gin.Domain.name='log'"], "'log'?"),
    (["--gin.LogFiles.user_column='custmer'"], "mean 'customer'?"),
    (["--gin.Domain.dedup='ids'"], "Domain.dedup"),
    (["--gin.Domain.strict=True"], "purchases.csv:7"),
    (["--gin.Domain.min_count=99"], "Domain.min_count = 99"),
    (["--gin.INTERACTIONS='nowhere.csv'"], "There is no file nowhere.csv"),
  ],
)
def test_errors_are_one_message_with_the_remedy(folder, capfd, more, match):
  assert calrec(["data", "card", *flags(folder, *more)]) == 1
  assert match in capfd.readouterr().err


def test_an_unknown_user_is_refused(folder, capfd):
  assert calrec(["data", "show", *flags(folder), "--user=nobody"]) == 1
  assert "no user 'nobody'" in capfd.readouterr().err


def test_a_domain_without_validation_shows_what_it_has(tmp_path, capfd):
  rows = [f"c{user},{item},2024-01-0{day}" for user in range(6)
          for day, item in ((1, "tea"), (2, "soap"))]  # fmt: skip
  (tmp_path / "purchases.csv").write_text(
    "\n".join(["customer,product,day", *rows]) + "\n"
  )
  few = flags(tmp_path, "--gin.Domain.min_count=1")
  assert calrec(["data", "show", *few]) == 1
  said = capfd.readouterr().err
  assert "log has no user in its validation split" in said
  assert "--split=train" in said
  assert calrec(["data", "show", *few, "--split=train"]) == 0
  assert "log, train: user c0" in capfd.readouterr().out
