"""HTML in which no text can turn into markup.

Everything that is not already `Html` is escaped where it enters, so a product
title with a `<script>` in it stays a title. Nothing else makes `Html`.
"""

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

_ELEMENT = re.compile(r"<[^>]*>")


class Html(str):
  """Text that is HTML and needs no escaping."""

  __slots__ = ()


def escape(value: object) -> Html:
  """HTML that shows `value`; `Html` is left as it is, None shows nothing."""
  if isinstance(value, Html):
    return value
  return Html("" if value is None else html.escape(str(value), quote=True))


def join(*parts: object) -> Html:
  """The parts one after another, escaped where needed."""
  return Html("".join(escape(part) for part in parts))


def tag(name: str, *children: object, **attributes: object) -> Html:
  """An element.

  Args:
    name: the element's name, from the program and never from data.
    *children: contents; escaped unless they are `Html`.
    **attributes: None leaves an attribute out, underscores become hyphens, and
      a trailing underscore goes (`class_`).

  Returns:
    The element with its end tag.
  """
  written = "".join(
    f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
    for key, value in attributes.items()
    if value is not None
  )
  return Html(f"<{name}{written}>{join(*children)}</{name}>")


def section(title: str, *children: object, **attributes: object) -> Html:
  """A section under a heading, or nothing where all children are empty."""
  if not any(children):
    return Html("")
  return tag("section", tag("h2", title), *children, **attributes)


def table(
  head: Sequence[object], rows: Iterable[Sequence[object]], **attributes: Any
) -> Html:
  """A table whose first column names the row.

  Every cell carries its column's name, which a narrow screen shows beside it.
  """
  head = [escape(cell) for cell in head]
  labels = [_words(cell) for cell in head]
  body = [
    tag(
      "tr",
      tag("th", row[0], scope="row"),
      *(
        tag("td", tag("div", cell), data_label=label)
        for cell, label in zip(row[1:], labels[1:], strict=True)
      ),
    )
    for row in rows
  ]
  return tag(
    "table",
    tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))),
    tag("tbody", *body),
    **attributes,
  )


def phrase(key: str) -> str:
  """A key of a result file as a heading: `max_history` as `Max history`."""
  words = key.replace("_", " ")
  return words[:1].upper() + words[1:]


def facts(pairs: Iterable[tuple[object, object]]) -> Html:
  """A list of names with their values; empty values are left out."""
  entries = [
    tag("div", tag("dt", name), tag("dd", value))
    for name, value in pairs
    if value not in (None, "")
  ]
  return tag("dl", *entries, class_="facts") if entries else Html("")


def _words(cell: Html) -> Html:
  """The words of a heading without its elements, separated by commas."""
  parts = (part.strip() for part in _ELEMENT.split(cell))
  return Html(", ".join(part for part in parts if part))
