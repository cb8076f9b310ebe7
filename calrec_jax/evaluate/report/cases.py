"""The report's pages on single users: history, truth, and what was answered."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from calrec_jax.evaluate.report import figures
from calrec_jax.evaluate.report.markup import Html, escape, join, section, tag
from calrec_jax.evaluate.report.markup import table as html_table

_LISTED = 5
_LABEL = re.compile(r"(?:^|(?<=\. ))([A-Z][A-Za-z ]{0,19}): ")
_MATCHES = {
  "target": ("✓ the next purchase", "truth"),
  "twin": ("≡ same text as the next purchase", "twin"),
}


def cases_section(cases: Sequence[Mapping[str, Any]]) -> Html:
  """Users in full, as `cases.choose` made them."""
  children = [_case(place, case) for place, case in enumerate(cases, start=1)]
  note = tag(
    "p",
    "Users were drawn before anything ran; half of those shown are hits of the "
    "first recommender listed, where there are enough.",
    class_="soft",
  )
  return section(
    "Some users", *([note] if children else []), *children, id="cases"
  )


def _case(place: int, case: Mapping[str, Any]) -> Html:
  answers = case.get("recommenders") or ()
  return tag(
    "article",
    tag("h3", f"{place}. User ", tag("code", case.get("user_id", ""))),
    tag(
      "div",
      tag("div", _history(case)),
      tag("div", _target(case), _ranks(answers)),
      class_="case",
    ),
    *(_texts(answer) for answer in answers if answer.get("texts")),
    tag("div", *(_list(answer) for answer in answers), class_="lists"),
  )


def _history(case: Mapping[str, Any]) -> Html:
  items = case.get("history") or ()
  length = case.get("history_length", len(items))
  skipped = length - len(items)
  title = f"Bought, oldest first ({length:,})"
  rest = (
    tag("p", f"{skipped:,} earlier items are not shown.", class_="soft")
    if skipped > 0
    else ""
  )
  return join(
    tag("h4", title),
    rest,
    tag("ol", *(_item(item) for item in items), start=skipped + 1),
  )


def _target(case: Mapping[str, Any]) -> Html:
  target = case.get("target")
  if not target:
    return Html("")
  twins = target.get("text_twins", 0)
  notes = [f"{target.get('train_events', 0):,} training events"]
  if twins:
    notes.append(f"{twins:,} other items have the same text")
  return join(
    tag("h4", "Bought next"),
    tag(
      "p",
      item_text(target["text"]),
      tag("small", ", ".join(notes), class_="what"),
      class_="truth next",
    ),
  )


def _ranks(answers: Sequence[Mapping[str, Any]]) -> Html:
  entries = [
    tag("li", answer["name"], " ", tag("b", _rank(answer.get("rank"))))
    for answer in answers
  ]
  return join(
    tag("h4", "Place of the next purchase"), tag("ul", *entries, class_="ranks")
  )


def _rank(rank: float | int | None) -> str:
  return "missed" if rank is None else f"{rank:g}"


def _texts(answer: Mapping[str, Any]) -> Html:
  """Generated texts with their probability and the items they matched."""
  rows = []
  for text in answer["texts"]:
    share = text.get("probability", 0.0)
    rows.append(
      [
        item_text(text["text"]),
        join(_probability(share), figures.share_bar(share)),
        f"{text.get('samples', 1):,}",
        join(
          *(tag("div", _marked(item)) for item in text.get("items", ())[:2])
        ),
      ]
    )
  return join(
    tag("h4", f"Written by {answer['name']}"),
    html_table(
      ["Text", "Probability", "Samples", "Matched item"],
      rows,
      class_="texts plain",
    ),
  )


def _probability(share: float | int) -> str:
  return f"{share:.1%}" if share >= 0.001 else f"{share:.0e}"


def _list(answer: Mapping[str, Any]) -> Html:
  """The first places of one recommender, the truth marked wherever it is."""
  items = answer.get("items") or ()
  shown = [
    (place, item)
    for place, item in enumerate(items, start=1)
    if place <= _LISTED or item.get("match")
  ]
  return tag(
    "section",
    tag("h4", answer["name"]),
    tag(
      "ol",
      *(
        tag("li", _marked(item), value=place, class_=item.get("match") or None)
        for place, item in shown
      ),
    )
    if shown
    else tag("p", "lists nothing", class_="soft"),
  )


def _item(item: Mapping[str, Any]) -> Html:
  words, kind = _MATCHES.get(item.get("match", ""), ("", None))
  return tag(
    "li",
    tag("span", item_text(item["text"]), class_="clamp", title=item["text"]),
    tag("small", words, class_="mark") if words else "",
    class_=kind,
  )


def _marked(item: Mapping[str, Any]) -> Html:
  words, kind = _MATCHES.get(item.get("match", ""), ("", None))
  return tag(
    "span",
    tag("span", item_text(item["text"]), class_="clamp", title=item["text"]),
    tag("small", words, class_="mark") if words else "",
    class_=kind,
  )


def item_text(text: str) -> Html:
  """An item's text with the labels of its fields in small print."""
  parts, start = [], 0
  for match in _LABEL.finditer(text):
    parts.append(escape(text[start : match.start()]))
    parts.append(tag("span", match[1], class_="label"))
    parts.append(Html(" "))
    start = match.end()
  return join(*parts, text[start:])
