"""HTML out of texts: tags, comments, and the code of pages.

Only names of HTML's elements are tags. `a < b`, `<3` and `vector<int>` stay.
"""

from __future__ import annotations

import html.parser
import re
from typing import Any

_BLOCKS = (
  "address area article aside audio base blockquote body br button canvas "
  "caption center col colgroup dd details dialog dir div dl dt embed fieldset "
  "figcaption figure footer form frame frameset h1 h2 h3 h4 h5 h6 head header "
  "hr html iframe img input legend li link main map menu meta nav noscript "
  "object ol optgroup option p param picture pre script section select source "
  "style summary svg table tbody td template textarea tfoot th thead title tr "
  "track ul video wbr"
)
_INLINE = (
  "a abbr acronym b bdi bdo big cite code data datalist del dfn em font i ins "
  "kbd label mark meter nobr output progress q rp rt ruby s samp small span "
  "strike strong sub sup time tt u var"
)
_TAGS = frozenset(f"{_BLOCKS} {_INLINE}".split())
_BREAKING = frozenset(_BLOCKS.split())
_CODE = re.compile(r"<(script|style)\b[^<>]*>", re.IGNORECASE)
_END = re.compile(r"</([A-Z])\s*>")
# References are not decoded here; this stands for their first character.
_AMPERSAND = "\U0010ffff"
_MARKUP = re.compile(r"</([a-z][a-z0-9]*)\s*>|<(br|hr|img)\b[^<>]*>", re.I)


def is_markup(text: str) -> bool:
  """Whether a text has an end tag or a line break of HTML."""
  return any(
    (match[1] or match[2]).lower() in _TAGS for match in _MARKUP.finditer(text)
  )


def without_tags(text: str) -> str:
  """A text without HTML's tags, comments, scripts and styles."""
  parser = _Parser(frozenset(_END.findall(text)))
  parser.feed(_without_code(text).replace("&", _AMPERSAND))
  # What is left is no whole tag. (`close` would take it for one.)
  kept = "".join(parser.parts) + parser.rawdata
  return kept.replace(_AMPERSAND, "&")


def _without_code(text: str) -> str:
  """A text without scripts and styles that are closed."""
  parts, place, open_names = [], 0, set[str]()
  folded = text.lower()
  for match in _CODE.finditer(text):
    name = match[1].lower()
    if match.start() < place or name in open_names:
      continue
    end = folded.find(f"</{name}", match.end())
    stop = text.find(">", end)
    if end < 0 or stop < 0:
      open_names.add(name)
      continue
    parts += [text[place : match.start()], " "]
    place = stop + 1
  return "".join(parts) + text[place:]


class _Parser(html.parser.HTMLParser):
  """Collects the text between tags.

  Attributes:
    parts: Texts so far.
  """

  # Scripts are gone already; an open one has no end.
  CDATA_CONTENT_ELEMENTS: Any = ()  # pyright: ignore
  RCDATA_CONTENT_ELEMENTS: Any = ()  # pyright: ignore

  def __init__(self, ended: frozenset[str]) -> None:
    """Takes the capital letters that end tags have as their names."""
    super().__init__(convert_charrefs=False)
    self.parts: list[str] = []
    self._ended = ended
    self._end_tag = ""

  def handle_starttag(
    self, tag: str, attrs: list[tuple[str, str | None]]
  ) -> None:
    raw = self.get_starttag_text() or ""
    self.parts.append(raw if self._is_text(tag, raw, attrs) else _blank(tag))

  def handle_startendtag(
    self, tag: str, attrs: list[tuple[str, str | None]]
  ) -> None:
    self.handle_starttag(tag, attrs)

  def parse_endtag(self, i: int) -> int:
    self._end_tag = self.rawdata[i : self.rawdata.find(">", i) + 1]
    return super().parse_endtag(i)

  def handle_endtag(self, tag: str) -> None:
    self.parts.append(_blank(tag) if tag in _TAGS else self._end_tag)

  def handle_data(self, data: str) -> None:
    self.parts.append(data)

  def unknown_decl(self, data: str) -> None:
    self.parts.append(data.removeprefix("CDATA["))

  def _is_text(
    self, tag: str, raw: str, attrs: list[tuple[str, str | None]]
  ) -> bool:
    """Whether a tag is none of HTML, `List<A>` or `a<b and c>d`."""
    if tag not in _TAGS:
      return True
    if attrs:
      return tag not in _BREAKING and all(value is None for _, value in attrs)
    name = raw[1:-1]
    return len(name) == 1 and name.isupper() and name not in self._ended


def _blank(tag: str) -> str:
  return " " if tag in _BREAKING else ""
