"""Paths: what a setting names, in which order, and what is refused."""

import gzip
import posixpath
import zipfile

import fsspec
import pytest

from calrec_jax.data.logs.files import log_paths, log_stores
from calrec_jax.errors import MissingPackageError

expand = log_paths.expand


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def write(folder, *names, data="user,item\n1,2\n"):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data)


def names(found):
  return [file.path for file in found]


def zipped(path, members):
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, data in members.items():
      archive.writestr(name, data)


def content(file):
  with file.open() as stream:
    return stream.read()


def test_a_file_a_list_and_a_folder_of_relative_paths(folder):
  write(folder, "jan.csv", "sub/feb.csv")
  assert names(expand("jan.csv", None)) == ["jan.csv"]
  assert names(expand(["sub/feb.csv", "jan.csv"], "")) == [
    "sub/feb.csv",
    "jan.csv",
  ]
  (file,) = expand(("feb.csv",), str(folder / "sub"))
  assert file.path == str(folder / "sub/feb.csv")
  assert content(file) == b"user,item\n1,2\n"
  assert file.size == 14


def test_the_home_folder(folder, monkeypatch):
  write(folder, "a.csv")
  monkeypatch.setenv("HOME", str(folder))
  assert names(expand("~/a.csv", "elsewhere")) == [f"{folder}/a.csv"]
  assert names(expand("a.csv", "~")) == [f"{folder}/a.csv"]


def test_a_folder_in_natural_order_without_marks(folder):
  write(folder, "t/part-10.csv", "t/part-2.csv", "t/part-1.csv.gz")
  write(folder, "t/_SUCCESS", "t/.part-2.csv.crc", "t/_metadata", "t/x.csv.crc")
  write(folder, "t/README.md", "t/.hidden/a.csv", "t/_temporary/0/b.csv")
  write(folder, "t/part-3.csv", data="")
  assert names(expand("t", None)) == [
    "t/part-1.csv.gz",
    "t/part-2.csv",
    "t/part-10.csv",
  ]
  assert names(expand("t/*", None)) == names(expand("t", None))
  assert names(expand("t/*.csv", None)) == ["t/part-2.csv", "t/part-10.csv"]
  assert names(expand("t/_temporary/*/*.csv", None)) == ["t/_temporary/0/b.csv"]


def test_partitions(folder):
  write(
    folder,
    "ev/date=2020-01-01/part-0.csv",
    "ev/date=2020-01-02/c=a%20b%2Fc/part-0.csv",
    "ev/date=__HIVE_DEFAULT_PARTITION__/part-0.csv",
  )
  found = [
    {"date": "2020-01-01"},
    {"date": "2020-01-02", "c": "a b/c"},
    {"date": None},
  ]
  for path in ("ev", "ev/*", "ev/**/*.csv"):
    assert [file.partitions for file in expand(path, None)] == found
  assert [file.partitions for file in expand("ev", str(folder))] == found
  (one,) = expand("ev/date=2020-01-01/part-0.csv", None)
  assert one.partitions == {"date": "2020-01-01"}
  # The folder of relative paths is no part of the table.
  (one,) = expand("part-0.csv", str(folder / "ev/date=2020-01-01"))
  assert one.partitions == {}


def test_a_folder_of_several_kinds_is_refused(folder):
  write(folder, "d/a.csv", "d/b.csv", "d/c.parquet")
  with pytest.raises(ValueError, match=r"2 \.csv, 1 \.parquet\).*\*\.csv"):
    expand("d", None)
  assert len(expand("d/*.csv", None)) == 2


def test_a_file_of_metadata_alone_is_no_iceberg_table(folder):
  write(folder, "t/a.metadata.json", "t/b.json")
  names = [posixpath.basename(file.path) for file in expand("t", None)]
  assert names == ["a.metadata.json", "b.json"]


@pytest.mark.parametrize(
  ("name", "what"),
  [
    ("_delta_log/0.json", "Delta"),
    ("metadata/v1.metadata.json", "Iceberg"),
    (".hoodie/x", "Hudi"),
  ],
)
def test_tables_with_a_history_are_refused(folder, name, what):
  write(folder, "t/a.parquet", f"t/{name}")
  with pytest.raises(ValueError, match=what):
    expand("t", None)


def test_nothing_found_names_folder_neighbour_and_bindings(folder):
  write(folder, "purchases.csv")
  with pytest.raises(FileNotFoundError) as raised:
    expand("purchase.csv", None)
  message = str(raised.value)
  assert str(folder) in message
  assert "Did you mean 'purchases.csv'?" in message
  assert "LogFiles.interactions, LogFiles.items and LogFiles.folder" in message
  with pytest.raises(FileNotFoundError, match="which does not exist"):
    expand("x.csv", "nowhere")
  with pytest.raises(FileNotFoundError, match="no file matches"):
    expand("*.parquet", None)
  (folder / "empty").mkdir()
  with pytest.raises(FileNotFoundError, match="no data file"):
    expand("empty", None)


@pytest.mark.parametrize("paths", [[], "", [""], [3], {"a": 1}])
def test_what_is_no_path(paths):
  with pytest.raises(ValueError, match=r"LogFiles\.interactions"):
    expand(paths, None)


def test_a_file_named_twice_is_refused(folder):
  write(folder, "a.csv", "b.csv")
  with pytest.raises(ValueError, match=r"a\.csv is named twice"):
    expand(["*.csv", "a.csv"], None)
  with pytest.raises(ValueError, match="named twice"):
    expand(["a.csv", str(folder / "a.csv")], None)


def test_a_name_with_brackets_is_a_file_first(folder):
  write(folder, "log[1].csv", "log1.csv")
  assert names(expand("log[1].csv", None)) == ["log[1].csv"]


def test_suffixes():
  for name, suffix in (
    ("a.CSV.GZ", ".csv"),
    ("part-00000", ""),
    ("x/a.json.zst", ".json"),
    ("https://x.org/a.tsv?download=1", ".tsv"),
    ("ml-100k.inter", ".inter"),
  ):
    assert log_stores.suffix(name) == suffix


def test_the_member_of_a_zip(folder):
  zipped("log.zip", {"log.csv": "a,b\n1,2\n", "__MACOSX/log.csv": "x"})
  (file,) = expand("log.zip", None)
  assert (file.path, file.suffix) == ("log.zip/log.csv", ".csv")
  assert content(file) == b"a,b\n1,2\n"
  assert file.size == 8


def test_a_zip_under_another_name(folder):
  zipped("log.csv", {"log.csv": "a,b\n"})
  assert names(expand("log.csv", None)) == ["log.csv/log.csv"]


def test_a_zip_of_several_files(folder):
  zipped("ml.zip", {"m/ratings.csv": "u,i\n", "m/movies.csv": "i,t\n"})
  with pytest.raises(ValueError, match=r"holds m/movies\.csv, m/ratings\.csv"):
    expand("ml.zip", None)
  assert names(expand("ml.zip/m/ratings.csv", None)) == ["ml.zip/m/ratings.csv"]
  assert len(expand("ml.zip/m/*.csv", None)) == 2
  assert len(expand("ml.zip/m", None)) == 2
  with pytest.raises(FileNotFoundError, match=r"Did you mean 'm/ratings\.csv'"):
    expand("ml.zip/m/rating.csv", None)
  zipped("parts.zip", {"jan.csv": "u,i\n1,2\n", "feb.csv": "u,i\n3,4\n"})
  assert len(expand("parts.zip", None)) == 2
  zipped("parts2.zip", {"p1.csv": "1,2\n", "p10.csv": "3,4\n", "p2.csv": "5"})
  assert names(expand("parts2.zip", None))[-1].endswith("p10.csv")


def test_damaged_and_empty_zips(folder):
  zipped("log.zip", {"log.csv": "user,item\n" * 1000})
  data = (folder / "log.zip").read_bytes()
  (folder / "cut.zip").write_bytes(data[:-30])
  with pytest.raises(ValueError, match="damaged zip archive"):
    expand("cut.zip", None)
  middle = bytearray(data)
  middle[50] ^= 0xFF
  (folder / "bad.zip").write_bytes(middle)
  (file,) = expand("bad.zip", None)
  with pytest.raises(ValueError, match="is damaged"):
    content(file)
  zipped("none.zip", {})
  with pytest.raises(ValueError, match="no data file"):
    expand("none.zip", None)
  zipped("x.zip", {"a.pkl": "x"})
  with pytest.raises(ValueError, match="pickle"):
    expand("x.zip", None)


def test_a_path_through_a_plain_file(folder):
  write(folder, "a.csv")
  with pytest.raises(ValueError, match="neither a folder nor a zip"):
    expand("a.csv/b.csv", None)


@pytest.fixture
def bucket():
  system = fsspec.filesystem("memory")
  system.store.clear()
  for name in ("b/ev/d=1/part-2.csv", "b/ev/d=1/part-10.csv", "b/ev/_SUCCESS"):
    system.pipe(f"/{name}", b"u,i\n1,2\n")
  yield system
  system.store.clear()


def test_buckets(bucket):
  parts = ["memory://b/ev/d=1/part-2.csv", "memory://b/ev/d=1/part-10.csv"]
  for paths, base in (
    ("memory://b/ev", None),
    ("ev", "memory://b"),
    ("memory://b/ev/*/*.csv", None),
  ):
    found = expand(paths, base)
    assert names(found) == parts
    assert found[0].partitions == {"d": "1"}
  assert content(found[0]) == b"u,i\n1,2\n"
  assert found[0].size == 8
  with pytest.raises(FileNotFoundError, match=r"Did you mean 'part-2\.csv'"):
    expand("memory://b/ev/d=1/part_2.csv", None)


def test_a_zip_in_a_bucket(bucket, tmp_path):
  zipped(tmp_path / "log.zip", {"log.csv": "a,b\n"})
  bucket.pipe("/b/log.zip", (tmp_path / "log.zip").read_bytes())
  for path in ("memory://b/log.zip", "memory://b/log.zip/log.csv"):
    (file,) = expand(path, None)
    assert content(file) == b"a,b\n"


def test_file_urls(folder):
  write(folder, "a b.csv")
  (file,) = expand(f"file://{folder}/a%20b.csv", None)
  assert file.is_local


def test_a_missing_file_system_names_the_extra(monkeypatch):
  def missing(url):
    raise ImportError("Install s3fs to access S3")

  monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
  with pytest.raises(MissingPackageError, match=r"calrec_jax\[s3\]"):
    expand("s3://bucket/log.csv", None)
  with pytest.raises(MissingPackageError, match=r"calrec_jax\[gcs\]"):
    expand("log.csv", "gs://bucket")


@pytest.mark.parametrize("url", ["ftp://x/a.csv", "simplecache::s3://x/a.csv"])
def test_other_protocols_are_refused(url):
  with pytest.raises((ValueError, FileNotFoundError), match=r"a\.csv"):
    expand(url, None)


def test_hashes_are_of_the_stored_bytes(folder, bucket):
  data = gzip.compress(b"u,i\n", mtime=0)
  (folder / "a.csv").write_bytes(data)
  (folder / "b.csv.gz").write_bytes(data)
  bucket.pipe("/b/c.csv", data)
  paths = ["a.csv", "b.csv.gz", "memory://b/c.csv"]
  assert len({file.sha256() for file in expand(paths, None)}) == 1
  zipped("z.zip", {"a.csv": "u\n1", "b.csv": "u\n2"})
  assert len({file.sha256() for file in expand("z.zip", None)}) == 2
  before = expand("a.csv", None)[0].sha256()
  (folder / "a.csv").write_bytes(b"other")
  assert expand("a.csv", None)[0].sha256() != before


def test_a_server_that_refuses_is_said(bucket, monkeypatch):
  def refuse(path):
    raise PermissionError("no credentials")

  monkeypatch.setattr(bucket, "info", refuse)
  with pytest.raises(ValueError, match=r"cannot be reached: no credentials"):
    expand("memory://b/log.csv", None)
