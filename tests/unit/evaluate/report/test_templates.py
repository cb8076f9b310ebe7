"""No text turns into markup, and figures hold what they were given."""

import itertools
import math
import xml.etree.ElementTree as ET

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec_jax.evaluate.report import figures, page

MACROS = page.TEMPLATES.get_template("macros.html.j2").module
WIDTH = 132  # Of an interval bar.
FIGURES = page.TEMPLATES.get_template("figures.html.j2").module
# XML has no form for most control characters; HTML shows them as they are.
TEXT = st.text(
  st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="￾￿"),
  min_size=1,
)


@given(TEXT)
@settings(max_examples=100, deadline=None)
def test_any_text_comes_back_as_the_same_text(text):
  note = ET.fromstring(MACROS.what(text))
  assert (note.text, len(note)) == (text, 0)
  digest = ET.fromstring(MACROS.digest(text))
  assert digest.get("title") == text
  assert (digest.text, len(digest)) == (text[:16], 0)
  item = ET.fromstring(MACROS.item("li", {"text": text, "match": "target"}))
  assert (item.tag, item.get("class")) == ("li", "target")
  assert item.find("span").get("title") == text


def test_html_is_not_escaped_twice_and_text_is_escaped_once():
  inner = MACROS.what("a < b & c")
  assert inner == '<small class="what">a &lt; b &amp; c</small>'
  assert f"<dt>&lt;</dt><dd>{inner}</dd>" in MACROS.fact("<", inner)
  assert 'title="&#34;"' in MACROS.digest('"')


def test_a_name_that_is_not_set_is_an_error():
  with pytest.raises(jinja2.UndefinedError, match="'alt'"):
    FIGURES.chart({"title": "a chart without its text"})


def test_labels_of_an_items_fields_are_set_apart():
  item = ET.fromstring(MACROS.item("p", {"text": "Title: <a>. Brand: B."}))
  [shown] = item
  assert [label.text for label in shown] == ["Title", "Brand"]
  assert "".join(shown.itertext()) == "Title <a>. Brand B."


def test_every_cell_names_its_column():
  table = ET.fromstring(
    MACROS.table(
      "plain",
      ["", "all"],
      [["<a>", "<b>"]],
      ["", "3 users"],
      caller=lambda row, column: row[column],
    )
  )
  cell = table.find(".//td")
  assert cell.get("data-label") == "all, 3 users"
  assert "".join(cell.itertext()) == "<b>"
  assert table.find(".//tbody//th").text == "<a>"


def test_empty_sections_and_facts_leave_nothing():
  assert MACROS.section("id", "Title", caller=lambda: " \n") == ""
  assert MACROS.facts("Heading", caller=lambda: "\n") == ""
  assert MACROS.fact("a", None) == MACROS.fact("b", "") == ""
  assert "<dd>0</dd>" in MACROS.fact("a", 0)


@pytest.mark.parametrize(
  ("low", "high"), [(0, 1), (-3.2, 7.9), (2.0, 2.0), (1e-6, 2e-6), (0, 12345)]
)
def test_ticks_are_few_round_and_reach_around(low, high):
  ticks = figures.nice_ticks(low, high)
  assert 2 <= len(ticks) <= 7
  assert ticks[0] <= low + 1e-9
  assert ticks[-1] >= high - 1e-9
  assert ticks == sorted(set(ticks))


def circles(svg):
  return [
    (float(mark.get("cx")), float(mark.get("cy")))
    for mark in ET.fromstring(svg).iter("circle")
  ]


def interval(value, low, high):
  return {"value": value, "low": low, "high": high}


def test_interval_bars_are_drawn_to_scale():
  bar = FIGURES.interval_bar(interval(0.5, 0.25, 0.75), 0.0, 1.0)
  (rect,) = ET.fromstring(bar).iter("rect")
  ((x, _),) = circles(bar)
  assert x == WIDTH / 2
  left, width = float(rect.get("x")), float(rect.get("width"))
  assert left + width / 2 == pytest.approx(x)
  assert width == pytest.approx((WIDTH - 10) / 2)
  assert "zero" not in bar
  assert "zero" in FIGURES.interval_bar(interval(0.1, -0.1, 0.2), -0.1, 0.2)


def test_a_curve_shows_every_validation_point_and_few_training_ones():
  lines = [(step, 1 / step) for step in range(1, 5001)]
  points = [(1000, 0.5), (5000, 0.25)]
  chart = FIGURES.chart(figures.training_curve("loss", lines, points))
  marks = circles(chart)
  assert len(marks) == 2
  assert marks[0][0] < marks[1][0]
  assert marks[0][1] < marks[1][1]  # Lower loss is lower on the page.
  assert len(chart) < 12_000
  assert "1 → 0.0002" in chart


def test_curves_without_finite_values_are_left_out():
  assert figures.training_curve("loss", [(1, math.nan)], []) is None
  figure = figures.training_curve("loss", [(1, math.inf), (2, 1.0)], [])
  assert "inf" not in FIGURES.chart(figure)


def test_bars_have_one_axis_and_end_at_their_values():
  rows = {"a": interval(0.2, 0.1, 0.3), "b" * 40: interval(0.1, 0.0, 0.4)}
  chart = FIGURES.bars("tail", "9 users", rows, 0.4)
  svg = ET.fromstring(chart).find("svg")
  first, second = (
    (float(mark.get("x")), float(mark.get("width")))
    for mark in svg.iter("rect")
  )
  assert first[0] == second[0]
  assert first[1] == pytest.approx(2 * second[1], abs=0.2)
  whiskers = [
    mark for mark in svg.iter("line") if mark.get("class") == "whisker"
  ]
  middle = float(whiskers[0].get("x1")) + float(whiskers[0].get("x2"))
  assert middle / 2 == pytest.approx(first[0] + first[1], abs=0.2)
  assert "b" * 40 in svg.get("aria-label")
  assert "b" * 40 not in [text.text for text in svg.iter("text")]
  # Nothing leaves the picture.
  width = float(svg.get("width"))
  assert all(0 <= float(mark.get("x2")) <= width for mark in svg.iter("line"))


def setting_curve(settings, entries):
  return FIGURES.chart(figures.setting_curve("NDCG", settings, entries))


def test_a_curve_over_a_setting_doubles_in_even_steps():
  settings = [1, 2, 4, 8, 16, 32]
  entries = [interval(n / 64, n / 128, n / 32) for n in settings]
  xs = [x for x, _ in circles(setting_curve(settings, entries))]
  steps = [after - before for before, after in itertools.pairwise(xs)]
  assert max(steps) - min(steps) < 0.3
  even = setting_curve([2, 3, 4], [interval(0.5, 0.4, 0.6)] * 3)
  xs = [x for x, _ in circles(even)]
  assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
  one = setting_curve([5], [interval(0.5, 0.5, 0.5)])
  assert len(circles(one)) == 1
