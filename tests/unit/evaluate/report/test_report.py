"""The report: complete, self-contained, escaped, and content with less."""

import html
import html.parser
import pathlib
import re

import pytest

from calrec_jax.evaluate import (
  Bootstrap,
  Protocol,
  evaluate,
  members,
  read_results,
  write_report,
  write_results,
)
from calrec_jax.evaluate.report import page as report
from tests.fixtures import evaluation_toys as toys

EVIL = "<script>alert(1)</script>"
CONTRAST = 4.5  # WCAG 2.2, level AA, for text of normal size.
CARD = {
  "domain": f"toys {EVIL}",
  "fingerprint": "ab" * 32,
  "example": f"Title: {EVIL}. Brand: B.",
  "configuration": {"dedup": "consecutive_id", "fields": ["Title <- title"]},
  "inputs": [{"file": f"{EVIL}.csv", "bytes": 1, "sha256": "cd" * 32}],
  "steps": [
    {"step": "parse", "item_rows": 9, "events": 100},
    {"step": "k-core", "users": 8, "items": 7, "events": 50, "passes": 3},
  ],
  "problems": [
    {
      "kind": "bad_timestamp",
      "count": 3,
      "first": f"{EVIL}.csv:17",
      "meaning": "skipped",
    }
  ],
  "shares": {"tied_times": 0.2, "new_share": 0.1},
  "missing_fields": {"Price": 0.5},
  "period": {"first": "2018-01-01", "last": "2018-09-01"},
  "tokens_per_item": {"mean": 3.5, "median": 3.0, "p95": 9.0, "max": 12},
  "outputs": {"test": "ef" * 32},
}
RUN = {
  "title": f"A run {EVIL}",
  "recipe": EVIL,
  "command": f"calrec eval {EVIL}",
  "stages": [{"name": EVIL, "steps": 1200, "checkpoint": f"/tmp/{EVIL}"}],
  "versions": {"jax": EVIL},
  "device": EVIL,
}


def rows(steps):
  for step in range(1, steps + 1):
    losses = {"loss": 3 / step, "loss_nig_nats": 2 / step, f"loss{EVIL}": 1.0}
    yield {"step": step, "split": "train", **losses, "tokens_per_second": 5e3}
    if step % 5 == 0:
      yield {"step": step, "split": "validation", **losses}


@pytest.fixture(scope="module")
def found():
  items = toys.catalogue(same_text=[(3, 4)])
  evil = toys.by_distance(items)
  evil.name = f"near {EVIL}"
  return evaluate(
    [toys.popularity(items), evil],
    toys.histories(),
    items,
    protocol=Protocol(bootstrap=Bootstrap(resamples=100), num_cases=4),
    data=CARD,
    progress=False,
  )


class Reader(html.parser.HTMLParser):
  """Collects elements, checks that they close, and joins the words."""

  VOID = ("meta",)

  def __init__(self):
    super().__init__(convert_charrefs=True)
    self.open, self.elements, self.attributes, self.words = [], [], [], []

  def handle_starttag(self, tag, attrs):
    self.elements.append(tag)
    self.attributes.extend(attrs)
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.words.append(data)


def read(path):
  reader = Reader()
  reader.feed(pathlib.Path(path).read_text("utf-8"))
  reader.close()
  assert not reader.open
  return reader, " ".join(" ".join(reader.words).split())


@pytest.fixture(scope="module")
def page(found, tmp_path_factory):
  path = tmp_path_factory.mktemp("report") / "made" / "report.html"
  curves = {f"stage {EVIL}": list(rows(20))}
  return write_report(path, found, run=RUN, curves=curves)


def test_user_text_stays_text(page):
  reader, words = read(page)
  assert "script" not in reader.elements
  assert EVIL not in page.read_text("utf-8")
  assert words.count(EVIL) > 10


def test_the_page_refers_to_nothing_outside(page):
  reader, _ = read(page)
  names = {name for name, _ in reader.attributes}
  assert not names & {"src", "href", "srcset", "style", "onload", "onclick"}
  style = page.read_text("utf-8").split("</style>")[0]
  assert "url(" not in style
  assert "@import" not in style
  assert "default-src 'none'" in style


def test_every_part_is_there(page, found):
  _, words = read(page)
  for heading in (
    "Results",
    "Results by group of users",
    "Validity",
    "Example users",
    "Training",
    "Data: toys",
    "Run",
    "How to read this",
  ):
    assert heading in words
  assert "1,200" in words
  assert f"{EVIL}.csv:17" in words
  assert "✓ the next purchase" in words
  for entry in found.recommenders.values():
    value = entry["metrics"]["ndcg@10"]
    low, high = (f"{value[k]:.4f}".removeprefix("0") for k in ("low", "high"))
    assert f"[{low}, {high}]" in words


def test_items_with_the_text_of_the_target_are_marked(tmp_path):
  items = toys.catalogue(same_text=[(3, 4)])
  results = evaluate(
    [toys.by_distance(items)],
    [toys.history(0, [5], 3)],
    items,
    protocol=Protocol(bootstrap=Bootstrap(resamples=10)),
    progress=False,
  )
  _, words = read(write_report(tmp_path / "r.html", results))
  assert "≡ same text as the next purchase" in words
  assert "1 other items have the same text" in words


def test_the_verdict_names_the_best_and_says_what_is_undecided(tmp_path):
  items = toys.catalogue()
  same = toys.popularity(items)
  same.name = "another"
  results = evaluate(
    [toys.popularity(items), same],
    toys.histories(),
    items,
    protocol=Protocol(bootstrap=Bootstrap(resamples=10)),
    progress=False,
  )
  _, words = read(write_report(tmp_path / "r.html", results))
  assert "another ranks best" in words  # Equal values go by name.
  assert "too little to tell from chance" in words


def test_a_bare_evaluation_makes_a_page(found, tmp_path):
  write_results(tmp_path, found)
  again = read_results(tmp_path)
  _, words = read(
    write_report(tmp_path / "report.html", again, card={}, cases=[])
  )
  assert "Results" in words
  for absent in ("Training", "Example users", "Bad rows", "Versions"):
    assert absent not in words


@pytest.mark.parametrize("left_out", [*CARD])
def test_a_card_without_one_part_is_shown(found, tmp_path, left_out):
  card = {key: value for key, value in CARD.items() if key != left_out}
  read(write_report(tmp_path / "report.html", found, card=card))


def test_equal_results_give_equal_bytes(found, tmp_path):
  first = write_report(tmp_path / "a.html", found, run=RUN)
  second = write_report(tmp_path / "b.html", found, run=RUN)
  assert first.read_bytes() == second.read_bytes()


def luminance(colour):
  channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
  linear = [
    c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
    for c in channels
  ]
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_is_readable_in_both_schemes(scheme):
  style = report.TEMPLATES.get_template("report.css").render()
  blocks = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
  colours = dict(re.findall(r"--([\w-]+): (#\w{6});", blocks[scheme]))
  pairs = [
    *((ink, "paper") for ink in ("ink", "soft", "accent", "good", "bad")),
    *((ink, "good-paper") for ink in ("ink", "soft", "good")),
    *((ink, "same-paper") for ink in ("ink", "soft", "same")),
  ]
  for ink, paper in pairs:
    light, dark = sorted(
      (luminance(colours[ink]), luminance(colours[paper])), reverse=True
    )
    assert (light + 0.05) / (dark + 0.05) >= CONTRAST, (ink, paper)


def figures_of(path, section):
  """Captions and descriptions of the pictures of one section."""
  page = path.read_text("utf-8")
  part = page.split(f'id="{section}"')[1].split("<section")[0]
  captions = re.findall(r"<figcaption>(.*?)</figcaption>", part)
  return captions, re.findall(r'class="chart" .*?aria-label="(.*?)"', part)


def test_every_bucket_is_drawn_with_every_recommender(page, found):
  captions, descriptions = figures_of(page, "slices")
  drawn = 0
  for buckets in found.recommenders["popularity"]["slices"].values():
    labels = [label for label in buckets if buckets[label]["users"]]
    if len(labels) == 1:
      continue
    for label in labels:
      users = buckets[label]["users"]
      assert captions[drawn].startswith(f"{label} <small>")
      assert f"{users:,} users" in captions[drawn]
      entry = buckets[label]["ndcg@10"]
      value, low, high = (f"{entry[k]:.4f}" for k in ("value", "low", "high"))
      assert f"popularity {value} [{low}, {high}]" in descriptions[drawn]
      assert "near &lt;script&gt;" in descriptions[drawn]
      drawn += 1
  assert drawn == len(captions) > 4


def members_of(path):
  """The words of the section on a fusion's members."""
  page = path.read_text("utf-8")
  part = page.split('<section id="members">')[1].split("</section>")[0]
  return " ".join(re.sub(r"<[^>]+>", " ", part).split())


@pytest.mark.parametrize("dense", [1.0, 0.0])
def test_what_each_member_brought_is_told(tmp_path, dense):
  items = toys.catalogue()
  results = evaluate(
    [toys.joining(items, dense=dense), toys.popularity(items)],
    toys.histories(),
    items,
    protocol=Protocol(bootstrap=Bootstrap(resamples=20)),
    progress=False,
  )
  write_results(tmp_path, results)
  again = read_results(tmp_path)
  path = write_report(tmp_path / "report.html", again)
  read(path)
  words = members_of(path)
  assert words.startswith("What each member brought fused joins popularity 1.5")
  for sentence in members.sentences(again, "fused"):
    assert html.escape(sentence) in words
  rows = [" ".join(row) for row in members_rows(path)]
  assert rows[0].startswith("popularity what is bought most 1.5 .0600 [")
  assert rows[0].endswith("+.0081 [+.0070, +.0090] better")
  if dense:
    assert rows[1].endswith("+.0012 [-.0001, +.0025] undecided")
  else:
    assert rows[1].startswith("dense the text model left out .0300")
    assert rows[1].endswith("better")  # Of the fusion without it.
    assert "do not use the text model" in words
  assert rows[2].startswith("own &lt;i&gt; left out .0100")
  assert "2,048 validation users who chose the weights" in words


def members_rows(path):
  """The words of each cell of the table of members."""
  page = path.read_text("utf-8")
  part = page.split('<section id="members">')[1].split("</section>")[0]
  for row in re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", part, re.DOTALL):
    cells = re.split(r"</t[hd]>", row)
    words = (" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in cells)
    yield [word for word in words if word]


def test_members_that_were_not_measured_have_names_and_weights(tmp_path):
  items = toys.catalogue()
  own = [{"name": "near", "weight": 2.0}, {"name": "far", "weight": 1.0}]
  fusion = toys.Joining("fused", lambda _: range(len(items)), own)
  results = evaluate([fusion], toys.histories(), items, progress=False)
  path = write_report(tmp_path / "report.html", results)
  assert list(members_rows(path)) == [["near", "2"], ["far", "1"]]
  assert "alone" not in members_of(path)


def test_a_curve_is_drawn_where_there_is_one(page, tmp_path):
  assert 'id="members"' not in page.read_text("utf-8")
  assert 'id="curves"' not in page.read_text("utf-8")
  items = toys.catalogue()
  results = evaluate(
    [toys.popularity(items), toys.Nearby(items)],
    toys.histories(),
    items,
    protocol=Protocol(bootstrap=Bootstrap(resamples=20)),
    progress=False,
  )
  write_results(tmp_path, results)
  again = read_results(tmp_path)
  path = write_report(tmp_path / "report.html", again)
  captions, descriptions = figures_of(path, "curves")
  assert captions == ["NDCG@10 by samples", "Recall@10 by samples"]
  points = results.recommenders["nearby"]["curve"]["points"]
  for description, metric in zip(
    descriptions, ("ndcg@10", "recall@10"), strict=True
  ):
    for point in points:
      value = point["metrics"][metric]["value"]
      assert f"{point['value']}: {value:.4f}" in description
