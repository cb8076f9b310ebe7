"""Downloads against a server of our own that breaks off, lies, and changes."""

import collections
import gzip
import hashlib
import http.server
import json
import pathlib
import random
import threading

import pytest

from calrec_tasks import download

CONTENT = gzip.compress(random.Random(0).randbytes(300_000))
OTHER = gzip.compress(random.Random(1).randbytes(300_000))


class Server:
  """Serves one content, as the test wants it.

  Attributes:
    content: what is sent.
    tag: its ETag; None sends none.
    cut: bytes after which the first answers break off.
    answers: (path, requested range, status) of each.
    status: by path, where it is not 200.
    length: whether the length is sent.
  """

  def __init__(self):
    self.content, self.tag = CONTENT, '"one"'
    self.cut = collections.deque()
    self.answers = []
    self.status = {}
    self.length = True
    self.ranges = True

  def answer(self, handler):
    byte_range = handler.headers.get("Range")
    status = self.status.get(handler.path, 200)
    start = 0
    if byte_range and self.ranges and status == 200:
      if handler.headers.get("If-Range") == self.tag:
        start, status = int(byte_range.removeprefix("bytes=").rstrip("-")), 206
      if start >= len(self.content):
        status = 416
    self.answers.append((handler.path, byte_range, status))
    body = self.content[start:] if status < 300 else b"<html>sorry</html>"
    handler.send_response(status)
    if status == 206:
      last = len(self.content) - 1
      handler.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
    if self.tag:
      handler.send_header("ETag", self.tag)
    if self.length:
      handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: self.cut.popleft()] if self.cut else body)


@pytest.fixture
def server(monkeypatch):
  monkeypatch.setattr(download, "PAUSE_SECONDS", 0)
  made = Server()

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      made.answer(self)

    def log_message(self, *_):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
    thread = threading.Thread(target=served.serve_forever, args=(0.01,))
    thread.start()
    made.url = f"http://127.0.0.1:{served.server_port}"
    yield made
    served.shutdown()
    thread.join()


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_a_file_and_its_record(server, tmp_path):
  url = f"{server.url}/a/x.json.gz?download=1"
  path = download.fetch([url], str(tmp_path / "deep"))
  assert path == str(tmp_path / "deep" / "x.json.gz")
  assert (tmp_path / "deep" / "x.json.gz").read_bytes() == CONTENT
  assert names(tmp_path / "deep") == ["x.json.gz", "x.json.gz.download.json"]
  record = json.loads(
    (tmp_path / "deep" / "x.json.gz.download.json").read_text()
  )
  assert record == {
    "url": url,
    "bytes": len(CONTENT),
    "sha256": hashlib.sha256(CONTENT).hexdigest(),
  }
  assert download.fetch([url], str(tmp_path / "deep")) == path
  assert len(server.answers) == 1


def test_it_resumes_where_it_was_interrupted(server, tmp_path):
  server.cut.extend([100_000, 50_000, 0])
  path = download.fetch([f"{server.url}/x.gz"], str(tmp_path))
  assert pathlib.Path(path).read_bytes() == CONTENT
  assert server.answers == [
    ("/x.gz", None, 200),
    ("/x.gz", "bytes=100000-", 206),
    ("/x.gz", "bytes=150000-", 206),
    ("/x.gz", "bytes=150000-", 206),
  ]


def test_the_next_run_resumes(server, tmp_path):
  server.cut.extend([1000] + [0] * 20)
  with pytest.raises(
    download.DownloadError, match="1,000 bytes received so far"
  ):
    download.fetch([f"{server.url}/x.gz"], str(tmp_path))
  assert names(tmp_path) == ["x.gz.part", "x.gz.part.json"]
  server.cut.clear()
  path = download.fetch([f"{server.url}/x.gz"], str(tmp_path))
  assert pathlib.Path(path).read_bytes() == CONTENT
  assert server.answers[-1] == ("/x.gz", "bytes=1000-", 206)


@pytest.mark.parametrize("change", ["content", "no tag", "no ranges", "note"])
def test_it_restarts_where_it_cannot_resume(server, tmp_path, change):
  if change == "no tag":
    server.tag = None
  server.cut.extend([1000] + [0] * 20)
  with pytest.raises(download.DownloadError):
    download.fetch([f"{server.url}/x.gz"], str(tmp_path))
  server.cut.clear()
  if change == "content":
    server.content, server.tag = OTHER, '"two"'
  elif change == "no ranges":
    server.ranges = False
  elif change == "note":
    (tmp_path / "x.gz.part.json").write_text('{"url"')
  path = download.fetch([f"{server.url}/x.gz"], str(tmp_path))
  assert pathlib.Path(path).read_bytes() == server.content


def test_a_server_that_ignores_the_condition(server, tmp_path):
  server.cut.extend([1000] + [0] * 20)
  with pytest.raises(download.DownloadError):
    download.fetch([f"{server.url}/x.gz"], str(tmp_path))
  server.cut.clear()
  server.content = OTHER + b"more"  # Under the same tag.
  path = download.fetch([f"{server.url}/x.gz"], str(tmp_path))
  assert pathlib.Path(path).read_bytes() == server.content


@pytest.mark.parametrize(
  ("name", "content", "what"),
  [
    ("x.json.gz", b"<!DOCTYPE html><html>moved</html>", "a web page"),
    ("x.json.gz", b"moved", "b'moved'"),
    ("x.json.gz", b"", "b''"),
    ("x.jsonl", b" <html>", "a web page"),
    ("x.parquet", CONTENT, "expected parquet"),
  ],
)
def test_wrong_content_is_refused(server, tmp_path, name, content, what):
  server.content = content
  with pytest.raises(download.DownloadError) as error:
    download.fetch(
      [f"{server.url}/{name}"], str(tmp_path), remedy="Fetch it by hand."
    )
  assert what in str(error.value)
  assert f"{server.url}/{name}" in str(error.value)
  assert str(error.value).endswith("Fetch it by hand.")
  assert names(tmp_path) == []


def test_a_wrong_hash_is_refused(server, tmp_path):
  with pytest.raises(download.DownloadError, match="sha256 is"):
    download.fetch(
      [f"{server.url}/x.gz"], str(tmp_path), sha256={"x.gz": "0" * 64}
    )
  assert names(tmp_path) == []


def test_alternates_in_their_order(server, tmp_path):
  server.status = {"/1/x.gz": 404, "/2/x.gz": 503}
  path = download.fetch(
    [
      "http://127.0.0.1:9/x.gz",  # No server listens there.
      *(f"{server.url}/{number}/x.gz" for number in (1, 2, 3)),
    ],
    str(tmp_path),
  )
  assert pathlib.Path(path).read_bytes() == CONTENT
  paths = [path for path, *_ in server.answers]
  assert paths == ["/1/x.gz", *["/2/x.gz"] * download.ATTEMPTS, "/3/x.gz"]


def test_an_alternate_never_resumes_with_anothers_bytes(server, tmp_path):
  server.cut.extend([1000] + [0] * (download.ATTEMPTS - 1))
  urls = [f"{server.url}/{number}/x.gz" for number in (1, 2)]
  path = download.fetch(urls, str(tmp_path))
  assert pathlib.Path(path).read_bytes() == CONTENT
  assert server.answers[-1] == ("/2/x.gz", None, 200)


def test_a_truncated_file_of_unknown_length(server, tmp_path):
  server.length = False
  server.cut.extend([1000])
  with pytest.raises(download.DownloadError, match="content is truncated"):
    download.fetch([f"{server.url}/x.gz"], str(tmp_path))
  path = download.fetch([f"{server.url}/x.gz"], str(tmp_path))
  assert pathlib.Path(path).read_bytes() == CONTENT


def test_a_full_disk_is_named(server, tmp_path, monkeypatch):
  usage = collections.namedtuple("usage", "free")
  monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage(9))
  with pytest.raises(OSError, match=r"disk of .* is full .*9 bytes free"):
    download.fetch([f"{server.url}/x.gz"], str(tmp_path))
  assert len(server.answers) == 1


def test_two_at_once_fetch_once(server, tmp_path):
  paths = []
  threads = [
    threading.Thread(
      target=lambda: paths.append(
        download.fetch([f"{server.url}/x.gz"], str(tmp_path))
      )
    )
    for _ in range(2)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert paths == [str(tmp_path / "x.gz")] * 2
  assert len(server.answers) == 1
