"""New histories are read like a log, and a bad one ends nothing."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calrec_jax.data import building
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.dataset import Dataset
from calrec_jax.data.domain.domain import Domain
from calrec_jax.data.logs.log_files import LogFiles
from calrec_jax.data.vocabulary.trained import TrainedSentencePiece
from calrec_jax.recommend import histories
from calrec_jax.recommend.histories import Columns
from tests.fixtures import small_logs
from tests.unit.data.cache.test_everybody import CORE

EXPECTED = {"anna": "abc", "ben": "c"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
  return small_logs.build(tmp_path_factory.mktemp("shop"), CORE, "abc")


@pytest.fixture
def read(shop, tmp_path):
  def run(name, content, *, skip_unknown=False, columns=Columns()):  # noqa: B008
    path = tmp_path / name
    if isinstance(content, pa.Table):
      pq.write_table(content, path)
    else:
      path.write_bytes(
        content if isinstance(content, bytes) else content.encode()
      )
    found = histories.read(path, shop.cache, skip_unknown, columns)
    return [
      (request.user_id, "".join(shop.ids(request.items)), request.reason)
      for request in found
    ]

  return run


def lines(*rows):
  return "".join(json.dumps(row) + "\n" for row in rows)


LISTS = lines(
  {"user_id": "anna", "items": ["a", "b", "c"]},
  {"user_id": "ben", "items": ["c"]},
)
EVENTS = "user_id,item_id,timestamp\nanna,c,30\nanna,a,10\nben,c,5\nanna,b,20\n"


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("h.jsonl", LISTS),
    ("h.jsonl", "\n" + LISTS),
    ("h.jsonl.gz", gzip.compress(LISTS.encode(), mtime=0)),
    ("h.jsonl", b"\xef\xbb\xbf" + LISTS.encode()),
    ("h.csv", EVENTS),
    ("h.csv", b"\xef\xbb\xbf" + EVENTS.encode()),
    ("h.csv.gz", gzip.compress(EVENTS.encode(), mtime=0)),
    ("h.csv", "user_id,item_id\nanna,a\nben,c\nanna,b\nanna,c\n"),
    ("h.tsv", EVENTS.replace(",", "\t")),
    (
      "h.jsonl",
      lines(
        {"user_id": "anna", "item_id": "a"},
        {"user_id": "ben", "item_id": "c"},
        {"user_id": "anna", "item_id": "b"},
        {"user_id": "anna", "item_id": "c"},
      ),
    ),
    (
      "h.parquet",
      pa.table({"user_id": ["anna", "ben"], "items": [["a", "b", "c"], ["c"]]}),
    ),
    (
      "h.parquet",
      pa.table(
        {
          "user_id": ["anna", "anna", "ben", "anna"],
          "item_id": ["c", "a", "c", "b"],
          "timestamp": pa.array([30, 10, 5, 20], pa.timestamp("s")),
        }
      ),
    ),
  ],
)
def test_all_formats_of_a_log_are_read(read, name, content):
  found = read(name, content)
  assert {user: items for user, items, _ in found} == EXPECTED
  assert all(reason is None for *_, reason in found)


def test_the_columns_of_the_log_are_known(read):
  source = LogFiles(
    interactions="x.csv",
    user_column="Kunde",
    item_column="Artikel",
    time_column="am",
    time_unit="iso",
    delimiter=";",
  )
  found = read(
    "h.csv",
    "Kunde;Artikel;am\nanna;b;2024-02-01\nanna;a;2024-01-01\n",
    columns=Columns.of_source(source),
  )
  assert found == [("anna", "ab", None)]


def test_ids_that_are_numbers_are_their_text(shop, tmp_path):
  rows = lines({"user_id": 7, "items": [1, 2.0, "x"]})
  (tmp_path / "h.jsonl").write_text(rows)
  [found] = histories.read(tmp_path / "h.jsonl", shop.cache, False, Columns())
  assert found.user_id == "7"
  assert "does not hold '1'" in found.reason


BAD = {
  '{"user_id": "x", "items": "abc"}': "items is the text 'abc'; it must be a",
  '{"user_id": "x", "items": {"a": 1}}': "it must be a list of ids",
  '{"user_id": "x", "items": ["a", null]}': "items holds None, which is no id",
  '{"user_id": "x", "items": [["a"]]}': "items holds ['a'], which is no id",
  '{"user_id": "x", "items": [true]}': "items holds True, which is no id",
  '{"user_id": "x", "items": null}': "items is missing",
  '{"user_id": "x"}': "items is missing",
  '{"user_id": null, "items": ["a"]}': "no user id",
  '{"items": ["a"]}': "no user id",
  "not json": "not a row of this format",
  "[1, 2]": "not a row of this format",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_history_gets_a_reason_and_ends_nothing(read, line):
  good = {"user_id": "anna", "items": ["a", "b"]}
  found = read("h.jsonl", lines(good) + line + "\n" + lines(good))
  assert len(found) == 3
  assert found.count(("anna", "ab", None)) == 2
  [(user, items, reason)] = [each for each in found if each[2]]
  assert user in (None, "x")
  assert items == ""
  assert reason.startswith("bad history: h.jsonl:2: ")
  assert BAD[line] in reason


def test_a_text_of_a_csv_column_is_no_list(read):
  [(user, items, reason)] = read("h.csv", 'user_id,items\nanna,"a,b"\n')
  assert (user, items) == ("anna", "")
  assert "h.csv:2: items is the text 'a,b'; it must be a list" in reason


def test_rows_of_events_that_cannot_be_used_are_counted(read):
  found = read(
    "h.csv",
    "user_id,item_id,timestamp\nanna,a,1\nanna,,2\nanna,b,soon\n,a,4\n"
    "ben,c,5\nben,c\n",
  )
  assert found == [
    ("anna", "a", "bad history: h.csv:3: no item id; 2 events left out"),
    (None, "", "bad history: h.csv:5: no user id"),
    ("ben", "c", None),
    (None, "", "bad history: h.csv:7: not a row of this format; skipped"),
  ]


def test_unknown_items_are_left_out_with_a_reason(read):
  history = lines({"user_id": "anna", "items": ["a", "cola", "b", "tee"]})
  reason = (
    "unknown items: h.jsonl:1: the catalogue does not hold 'cola'; 2 of 4 left "
    "out"
  )
  assert read("h.jsonl", history) == [("anna", "ab", reason)]
  assert read("h.jsonl", history, skip_unknown=True) == [("anna", "ab", None)]


@pytest.mark.parametrize("skip_unknown", [False, True])
def test_without_a_known_item_there_is_nothing_to_read(read, skip_unknown):
  history = lines(
    {"user_id": "anna", "items": ["cola"]}, {"user_id": "ben", "items": []}
  )
  assert read("h.jsonl", history, skip_unknown=skip_unknown) == [
    (
      "anna",
      "",
      "no known item: h.jsonl:1: the catalogue does not hold 'cola'",
    ),
    ("ben", "", "no known item: h.jsonl:2: it is empty"),
  ]


@pytest.mark.parametrize(
  ("name", "content", "said"),
  [
    ("h.jsonl", "", r"h\.jsonl is empty"),
    ("h.csv", "user_id,item_id\n", "holds no history"),
    ("h.csv", "who,what\nanna,a\n", "its columns are 'who', 'what'"),
    ("h.xyz", "x", "holds no history"),
    (
      "h.csv",
      "user_id,item_id,timestamp\nanna,a,soon\n",
      "no time .* can be read as those of the log; the first is 'soon'",
    ),
  ],
)
def test_a_file_without_histories_is_refused(read, name, content, said):
  with pytest.raises(ValueError, match=said):
    read(name, content)


def test_times_in_another_unit_than_the_log_s_are_refused(read):
  rows = "user_id,item_id,timestamp\nanna,a,2024-01-01\n"
  assert read("h.csv", rows) == [("anna", "a", None)]  # Detected.
  with pytest.raises(ValueError, match="can be read as those of the log"):
    read("h.csv", rows, columns=Columns(time_unit="s"))


@pytest.mark.parametrize("wrong", [["x"], {"a": 1}, True, 1.5])
def test_an_id_that_is_none_spoils_no_other_history(read, wrong):
  found = read(
    "h.jsonl",
    LISTS + lines({"user_id": wrong, "items": ["a"]}),
  )
  assert found[2:] == [(None, "", "bad history: h.jsonl:3: no user id")]
  assert dict(each[:2] for each in found[:2]) == EXPECTED
  found = read(
    "h.jsonl",
    lines(
      {"user_id": "anna", "item_id": "a"}, {"user_id": "ben", "item_id": wrong}
    ),
  )
  said = "bad history: h.jsonl:2: no item id; 1 events left out"
  assert found == [("anna", "a", None), ("ben", "", said)]


def test_a_list_in_a_csv_file_is_written_as_json(read):
  rows = 'user_id,items\nanna,"[""a"", ""b""]"\nben,"[""a"", "\ncleo,\n'
  anna, ben, cleo = read("h.csv", rows)
  assert anna == ("anna", "ab", None)
  assert "h.csv:3: items is the text" in ben[2]
  assert "items is missing" in cleo[2]


def test_ids_are_spelt_as_those_of_the_log(read):
  columns = Columns(id_rules=("case",))
  assert read(
    "h.csv", "user_id,item_id\nAnna,A\nanna,B\n", columns=columns
  ) == [("anna", "ab", None)]
  assert read("h.jsonl", lines({"user_id": "X", "items": ["C"]})) != [
    ("x", "c", None)
  ]
  history = lines({"user_id": "X", "items": ["C"]})
  assert read("h.jsonl", history, columns=columns) == [("x", "c", None)]


def test_every_reason_of_a_history_is_said(read):
  [(user, items, reason)] = read(
    "h.csv", "user_id,item_id,timestamp\nanna,a,1\nanna,cola,2\nanna,b,soon\n"
  )
  assert (user, items) == ("anna", "a")
  assert "unknown items: h.csv:2: the catalogue does not hold 'cola'" in reason
  assert "h.csv:4: no readable time; 1 events left out" in reason


@pytest.fixture(scope="module")
def kinds_shop(tmp_path_factory):
  folder = tmp_path_factory.mktemp("kinds")
  path = folder / "log.csv"
  events = [
    f"u{user},{item},{10 * n + m},tea {item},{kind}\n"
    for user in range(8)
    for n, item in enumerate("abcabc")
    for m, kind in enumerate(("view", "buy"))
  ]
  path.write_text("user_id,item_id,timestamp,title,event\n" + "".join(events))
  source = LogFiles(
    interactions=str(path),
    time_unit="order",
    event_column="event",
    target_where='event == "buy"',
  )
  dataset = Dataset(
    domains=[Domain(name="shop", source=source)],
    vocabulary=TrainedSentencePiece(size=320),
    data_dir=str(folder / "data"),
  )
  [cache] = building.build(dataset, "shop", progress=False).values()
  return small_logs.Shop(dataset, TokenCache.open(cache)), source


def test_events_of_a_history_have_their_kinds(kinds_shop, tmp_path):
  shop, source = kinds_shop
  path = tmp_path / "h.csv"
  path.write_text(
    "user_id,item_id,event\nanna,a,view\nanna,b,buy\nben,c,steal\ncleo,a,\n"
  )
  columns = Columns.of_source(source)
  anna, ben, cleo = histories.read(path, shop.cache, False, columns)
  kinds = [shop.cache.kinds.names[code] for code in anna.items.kinds]
  assert kinds == ["view", "buy"]
  assert not len(ben.items)
  assert "h.csv:4: the model knows no event 'steal', but" in ben.reason
  assert "h.csv:5: no kind of event" in cleo.reason
  path.write_text("user_id,item_id\nanna,a\n")
  [anna] = histories.read(path, shop.cache, False, columns)
  assert [shop.cache.kinds.names[n] for n in anna.items.kinds] == ["buy"]


def test_a_missing_file_is_named_as_it_was_given(shop, tmp_path):
  (tmp_path / "new.csv").touch()
  with pytest.raises(
    ValueError, match=r"^--histories=.*nwe\.csv: .*'new\.csv'"
  ):
    histories.read(tmp_path / "nwe.csv", shop.cache, False, Columns())


def test_a_folder_of_files_is_read_as_one(shop, tmp_path):
  head = "user_id,item_id,timestamp\n"
  (tmp_path / "part-1.csv").write_text(f"{head}anna,c,30\nben,c,5\n")
  (tmp_path / "part-2.csv").write_text(f"{head}anna,a,10\nanna,b,x\nben,,9\n")
  for path in (tmp_path, tmp_path / "part-*.csv"):
    found = histories.read(path, shop.cache, False, Columns())
    items = {r.user_id: "".join(shop.ids(r.items)) for r in found}
    assert items == {"anna": "ac", "ben": "c"}
    reasons = {r.user_id: r.reason for r in found}
    assert "part-2.csv:3: no readable time" in reasons["anna"]
    assert "part-2.csv:4: no item id" in reasons["ben"]


def test_a_folder_of_lists_names_the_file_of_a_bad_one(shop, tmp_path):
  (tmp_path / "a.jsonl").write_text(LISTS)
  (tmp_path / "b.jsonl").write_text(lines({"user_id": "eva", "items": ["?"]}))
  *good, bad = histories.read(tmp_path, shop.cache, False, Columns())
  assert [request.user_id for request in good] == ["anna", "ben"]
  assert "b.jsonl:1: the catalogue does not hold '?'" in bad.reason


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("h.csv", "user_id,items\nanna,a b c\nben,c\n"),
    ("h.csv", "user_id,items\nanna,a|b|c\nben,c\n"),
    ("h.csv", "user_id,items\nanna,\"['a', 'b', 'c']\"\nben,\"['c']\"\n"),
    ("h.jsonl", LISTS),
    ("h.csv", EVENTS),
  ],
)
def test_histories_of_a_log_whose_items_are_lists(read, name, content):
  found = read(name, content, columns=Columns(item="items[]"))
  assert {user: items for user, items, _ in found} == EXPECTED
