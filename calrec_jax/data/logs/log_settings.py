"""What the settings of `LogFiles` must be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from calrec_jax.data.logs.columns import times
from calrec_jax.data.logs.files import read_options
from calrec_jax.errors import Rule, one_of, optional


def _is_list(value: Any) -> bool:
  return isinstance(value, (list, tuple))


_PATH = Rule(lambda value: isinstance(value, (str, os.PathLike)), "a path")
_PATHS = Rule(
  lambda value: (
    _PATH.holds(value)
    or (_is_list(value) and len(value) > 0 and all(map(_PATH.holds, value)))
  ),
  "a path or a list of paths",
)
_TEXT = Rule(lambda value: isinstance(value, str) and value != "", "a text")
_TEXTS = Rule(
  lambda value: _is_list(value) and all(isinstance(v, str) for v in value),
  'a list of texts: ("one", "two")',
)
_RENAMED = Rule(
  lambda value: (
    isinstance(value, Mapping)
    and all(isinstance(v, str) for pair in value.items() for v in pair)
  ),
  'a dict of texts: {"title": "name"}',
)
_CHARACTER = Rule(
  lambda value: isinstance(value, str) and len(value) == 1, "one character"
)
_CHARACTER_OR_NONE = Rule(
  lambda value: value == "" or _CHARACTER.holds(value), 'one character, or ""'
)

LISTS = (
  *("columns", "item_columns", "order_columns", "fill_down"),
  *("missing", "id_rules"),
)
RULES: Mapping[str, Rule] = {
  "interactions": _PATHS,
  "items": optional(_PATHS),
  "orders": optional(_PATHS),
  "folder": optional(_PATH),
  "time_unit": optional(one_of(*times.UNITS)),
  "format": optional(one_of(*read_options.FORMATS)),
  "quoting": one_of(*read_options.QUOTINGS),
  "quote": _CHARACTER,
  "escape": optional(_CHARACTER_OR_NONE),
  "decimal": optional(one_of(".", ",")),
  "text_columns": _RENAMED,
  **dict.fromkeys(("user_column", "item_column", "order_id_column"), _TEXT),
  **dict.fromkeys(
    (
      *("item_id_column", "time_column", "order_column", "event_column"),
      *("time_format", "delimiter", "encoding"),
    ),
    optional(_TEXT),
  ),
  **dict.fromkeys(LISTS, _TEXTS),
}
