"""A domain: one catalogue and one set of users, from raw files to documents.

The order of operations is fixed: parse, validate, sort, consecutive repeats,
iterated k-core, split, the last `max_history` events. The split precedes any
training example.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import gin
import numpy as np
import pyarrow as pa

from calrec_jax.data import records
from calrec_jax.data.domain import splits
from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.columns import id_codes
from calrec_jax.data.logs.columns import text as text_lib
from calrec_jax.data.logs.rows import amount_columns
from calrec_jax.errors import (
  InputError,
  at_least,
  check,
  nearest,
  one_of,
  optional,
  refuse,
)
from calrec_jax.storage import identity

_REQUIRED: Any = gin.REQUIRED  # Gin rejects it when used.

# Part of every fingerprint: raised when the same configuration and files give
# other documents.
SCHEMA = 1

_NAME = re.compile("[a-z][a-z0-9_]*")


class Source(Protocol):
  """The source of a domain's events.

  Attributes:
    default_fields: Fields of an item's text if `Domain.fields` is None.
  """

  default_fields: ClassVar[tuple[text_lib.Field, ...]]

  def inputs(self) -> list[dict[str, Any]]:
    """The files that are read, as JSON: `file`, `bytes` and `sha256`."""
    ...

  def fingerprint(self) -> dict[str, Any]:
    """Everything the events depend on, as JSON: options and file hashes."""
    ...

  def read(
    self, problems: problems_lib.Problems, columns: Sequence[str]
  ) -> tuple[events_lib.Events, events_lib.Items]:
    """Reads events and items with the requested columns; counts bad rows."""
    ...


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
  """A domain's documents and catalogue, ready to be written.

  Attributes:
    name: Name of the domain.
    item_ids: Ids of the catalogue's items, by catalogue row.
    texts: Texts of the items, by catalogue row.
    fields: Fields of the texts.
    missing: Fraction of items without a value, by field label.
    events: Sorted events; their items are catalogue rows.
    documents: Ranges of `events` by split.
    boundaries: First days of a global temporal split, or None.
    steps: Number of users, items and events after every step.
    fractions: Fractions of tied times, of repeats and of identical texts.
    problems: Bad rows by kind.
    everybody: Sorted events of all users, before the k-core; items outside the
      catalogue are -1.
  """

  name: str
  item_ids: Sequence[str]
  texts: Sequence[str]
  fields: tuple[text_lib.Field, ...]
  missing: dict[str, float]
  events: events_lib.Events
  documents: dict[str, splits.Documents]
  boundaries: splits.Boundaries | None
  steps: list[dict[str, Any]]
  fractions: dict[str, float]
  problems: problems_lib.Problems
  everybody: events_lib.Events

  def columns(self, split: str) -> records.DocumentColumns:
    """The documents of a split with all their events."""
    part = self.documents[split]
    events = part.events()
    user_ids = id_codes.strings(self.events.user_ids)
    return records.DocumentColumns(
      user_ids=id_codes.Column(user_ids.take(pa.array(part.users))),
      offsets=np.concatenate([[0], np.cumsum(part.stops - part.starts)]),
      items=self.events.items[events],
      timestamps=self.events.timestamps[events],
      events=events,
      kinds=_rows(self.events.kinds, events),
      targets=_rows(self.events.targets, events),
    )

  @property
  def kinds(self) -> records.EventKinds | None:
    """The kinds of event, or None if the log has no column of them."""
    events = self.events
    if events.kinds is None:
      return None
    codes, counts = np.unique(
      events.kinds[events.target_mask()], return_counts=True
    )
    codes = codes[np.argsort(counts, kind="stable")].tolist()
    names = events.kind_names
    return records.EventKinds(names, tuple(names[code] for code in codes))

  def train_items(self) -> np.ndarray:
    """Catalogue rows with at least one training event."""
    found = np.zeros(len(self.item_ids), bool)
    found[self.events.items[self.documents["train"].events()]] = True
    return np.flatnonzero(found)


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Domain:
  """One catalogue and one set of users.

  A log may have several kinds of event, such as views, carts and purchases, of
  which only some may be targets. The others are history: they are read,
  filtered and sorted with the rest, but never asked for. Then consecutive
  repeats are of the same item and kind; `min_count` counts events of every
  kind, and a user needs one event that may be a target besides; a split takes
  its targets from these events, and fractions of events are fractions of them.

  Attributes:
    name: Lower-case name; also the name of the SeqIO task.
    source: Source of the events, e.g. `@LogFiles()`.
    fields: Fields of an item's text, in order: (label, column) or (label,
      column, max_words) or (label, column, max_words, max_tokens); None takes
      those of the source that have columns.
    item_words: Maximum number of words of an item's text, labels included; None
      leaves it to the fields.
    duplicates: Rule for events of the same user, item and time: "drop" retains
      the first and counts the others, "keep" retains all.
    dedup: Rule for consecutive purchases of a user: "consecutive_id" retains
      the first of several of the same item, "consecutive_text" the first of
      several with the same text, "none" all.
    min_count: Minimum number of events per user and per item; others are
      dropped repeatedly until none is left (k-core); 1 retains all.
    split: Method, "leave_one_out" or "global_temporal".
    validation_start: First day of validation, ISO 8601 or unix milliseconds.
    test_start: First day of the test, likewise.
    validation_fraction: Fraction of events in validation if no day is given.
    test_fraction: Fraction of events in the test if no day is given.
    max_history: Maximum number of newest events of a history; None retains all.
    strict: Whether bad rows are an error instead of being counted and skipped.
  """

  name: str = _REQUIRED
  source: Source = _REQUIRED
  fields: tuple[Any, ...] | None = None
  item_words: int | None = None
  duplicates: str = "drop"
  dedup: str = "consecutive_id"
  min_count: int = 5
  split: str = "leave_one_out"
  validation_start: str | int | None = None
  test_start: str | int | None = None
  validation_fraction: float = 0.1
  test_fraction: float = 0.1
  max_history: int | None = None
  strict: bool = False

  def __post_init__(self) -> None:
    if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
      refuse(
        self,
        "name",
        "must be lower-case letters, digits and underscores, starting with a "
        "letter.",
      )
    check(
      self,
      duplicates=one_of("drop", "keep"),
      dedup=one_of(*events_lib.DEDUPS),
      split=one_of(*splits.METHODS),
      min_count=at_least(1),
      item_words=optional(at_least(1)),
      max_history=optional(at_least(1)),
    )
    if self.fields is not None:
      fields = tuple(map(text_lib.as_field, self.fields))
      if not fields or len({f.label for f in fields}) != len(fields):
        refuse(self, "fields", "must be fields with distinct labels.")
      object.__setattr__(self, "fields", fields)

  @property
  def cuts_by_tokens(self) -> bool:
    """Whether fields are truncated by tokens of a vocabulary."""
    return any(field.max_tokens for field in self.chosen_fields())

  def chosen_fields(self) -> tuple[text_lib.Field, ...]:
    """The fields that the texts may have."""
    return self.fields or self.source.default_fields

  def fingerprint(self) -> str:
    """Hash of everything the documents depend on, including the files."""
    options = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name not in ("source", "strict")
    }
    if self.item_words is None:  # As in earlier releases.
      del options["item_words"]
    if self.duplicates == "drop":  # As if earlier releases had had the setting.
      del options["duplicates"]
    options["fields"] = [
      dataclasses.asdict(field) for field in self.chosen_fields()
    ]
    options["source"] = {
      "type": type(self.source).__name__,
      **self.source.fingerprint(),
    }
    return identity.fingerprint({"schema": SCHEMA, "domain": options})

  def prepare(self, tokenizer: text_lib.Tokenizer | None = None) -> Prepared:
    """Reads, filters and splits the log.

    Args:
      tokenizer: Tokenizer that truncates fields by tokens; None does not.

    Raises:
      problems.BadRowsError: If the domain is strict and a row is bad.
      InputError: If nothing is left, or a field's column does not exist.
    """
    problems = problems_lib.Problems()
    fields = self.chosen_fields()
    events, items = self.source.read(problems, [f.column for f in fields])
    fields = self._present(fields, items)
    steps = [
      {"step": "parse", "item_rows": items.num_rows, "events": events.num_rows}
    ]
    texts, missing = _texts(fields, items, tokenizer, problems, self.item_words)
    events = _with_text(events, texts, items, problems)
    events = events_lib.sort(events)
    if self.duplicates == "drop":
      events = _distinct(events, items, problems)
    if self.strict:
      problems.refuse(self.name)
    steps.append(_count("validate", events))
    self._refuse_empty(events, problems, "the input has no usable event")
    if not events.target_mask().any():
      raise InputError(
        f"Domain {self.name!r} has nothing to ask for: none of its "
        f"{len(events):,} usable events may be a target. Check "
        "LogFiles.target_where."
      )

    keys = id_codes.strings(texts).dictionary_encode().indices.to_numpy()
    same_item = events_lib.repeats(events, events.items, same_kind=True)
    same_text = events_lib.repeats(events, keys[events.items], same_kind=True)
    fractions = {
      "tied_times": _fraction(events_lib.repeats(events, events.timestamps)),
      "consecutive_repeats": _fraction(same_item),
      "consecutive_twins": _fraction(same_text & ~same_item),
    }
    if self.dedup != "none":
      by_id = self.dedup == "consecutive_id"
      events = events.take(~(same_item if by_id else same_text))
    steps.append(_count("consecutive repeats", events))
    whole = events
    events, passes = events_lib.k_core(events, self.min_count)
    steps.append(_count("k-core", events) | {"passes": passes})
    self._refuse_empty(
      events, problems, f"Domain.min_count = {self.min_count} leaves nothing"
    )
    events = _with_used_kinds(events)
    retained = np.flatnonzero(np.bincount(events.items))
    rows: list[int] = retained.tolist()
    catalogue_rows = np.full(len(texts), -1, np.int32)
    catalogue_rows[retained] = np.arange(len(rows))
    events = dataclasses.replace(events, items=catalogue_rows[events.items])
    # The k-core can make two purchases of an item consecutive again.
    fractions["consecutive_repeats_left"] = _fraction(
      events_lib.repeats(events, events.items, same_kind=True)
    )
    fractions["twin_texts"] = 1 - len(np.unique(keys[retained])) / len(rows)
    documents, boundaries = self._split(events)
    for split, part in documents.items():
      steps.append(_count_of_split(split, part, events))
    return Prepared(
      name=self.name,
      item_ids=[items.item_ids[row] for row in rows],
      texts=[texts[row] for row in rows],
      fields=fields,
      missing={
        label: float(np.mean(mask[retained])) for label, mask in missing.items()
      },
      events=events,
      documents=documents,
      boundaries=boundaries,
      steps=steps,
      fractions=fractions,
      problems=problems,
      everybody=_in_terms_of(events, whole, catalogue_rows),
    )

  def _id_column(self) -> str:
    """The column of the items' ids, where items are described."""
    source: Any = self.source
    column = getattr(source, "item_column", "item_id")
    if getattr(source, "items", None) is None:
      return column
    return source.item_id_column or column

  def _present(
    self, fields: tuple[text_lib.Field, ...], items: events_lib.Items
  ) -> tuple[text_lib.Field, ...]:
    """The fields whose column exists; configured ones all must."""
    if not items.available and not items.num_rows:
      files = ", ".join(str(row["file"]) for row in self.source.inputs())
      raise InputError(f"Domain {self.name!r} is empty: {files} has no rows.")
    present = tuple(f for f in fields if f.column in items.columns)
    absent = [f for f in fields if f.column not in items.columns]
    if absent and (self.fields is not None or not present):
      raise InputError(
        f"Domain.fields of {self.name!r} reads the column "
        f"{absent[0].column!r}, which {items.file} does not have. It has "
        f"{', '.join(map(repr, items.available))}."
        + nearest(absent[0].column, items.available)
        + " Set LogFiles.text_columns, or Domain.fields; ids can be the text:"
        f' Domain.fields = (("Item", "{self._id_column()}"),).'
      )
    return present

  def _split(
    self, events: events_lib.Events
  ) -> tuple[dict[str, splits.Documents], splits.Boundaries | None]:
    boundaries = None
    if self.split == "leave_one_out":
      documents = splits.leave_one_out(events)
    else:
      boundaries = splits.boundaries(
        events,
        validation_start=self.validation_start,
        test_start=self.test_start,
        validation_fraction=self.validation_fraction,
        test_fraction=self.test_fraction,
      )
      documents = splits.global_temporal(events, boundaries)
    return {
      split: splits.keep_last(part, self.max_history, target=split != "train")
      for split, part in documents.items()
    }, boundaries

  def _refuse_empty(
    self, events: events_lib.Events, problems: problems_lib.Problems, why: str
  ) -> None:
    if not len(events):
      raise InputError(
        f"Domain {self.name!r} is empty: {why}."
        + "".join(
          f"\n  {count:>9,}  rows left out by LogFiles.where: {condition}"
          for condition, count in problems.excluded.items()
        )
        + (f"\nBad rows:\n{problems.table()}" if len(problems) else "")
        + "".join(
          f"\n  {note.message}"
          + (f"\n    -> {note.remedy}" * bool(note.remedy))
          for note in problems.notes()
          if note.severity != "info"
        )
      )


def slug(name: str) -> str:
  """A text as a domain's name: `MEAT-PCKGD` becomes `meat_pckgd`."""
  return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")


def _texts(
  fields: tuple[text_lib.Field, ...],
  items: events_lib.Items,
  tokenizer: text_lib.Tokenizer | None,
  problems: problems_lib.Problems,
  max_words: int | None,
) -> tuple[list[str], dict[str, np.ndarray]]:
  """Text of each item, empty without any value; bool[N] missing, by label."""
  columns = []
  for field in fields:
    values = items.columns[field.column]
    column = text_lib.column_texts(
      field,
      values,
      tokenizer,
      missing=items.missing,
      decimal=items.decimal,
    )
    columns.append(column.texts)
    if items.decimal is None:
      amount_columns.note_decimal(field.label, column.evidence, problems)
    unreadable = items.lines[column.unreadable]
    problems.add_rows("unreadable_price", items.file, unreadable)
  texts = [
    text_lib.item_text(fields, values, max_words) if any(values) else ""
    for values in zip(*columns, strict=True)
  ]
  empty = np.array([not text for text in texts], bool)
  problems.add_rows("empty_text", items.file, items.lines[empty])
  missing = {
    field.label: np.array([not value for value in values], bool)
    for field, values in zip(fields, columns, strict=True)
  }
  return texts, missing


def _with_text(
  events: events_lib.Events,
  texts: Sequence[str],
  items: events_lib.Items,
  problems: problems_lib.Problems,
) -> events_lib.Events:
  """The events whose items have a text."""
  has_text = np.array([bool(text) for text in texts], bool)
  if has_text.all():
    return events
  good = has_text[events.items]
  if not good.all():
    item = int(events.items[np.flatnonzero(~good)[0]])
    problems.add(
      "event_without_text",
      problems_lib.location(items.file, int(items.lines[item])),
      int(np.sum(~good)),
    )
  return events.take(good)


def _distinct(
  events: events_lib.Events,
  items: events_lib.Items,
  problems: problems_lib.Problems,
) -> events_lib.Events:
  """The events without those that are there already."""
  again = events_lib.duplicates(events)
  if not again.any():
    return events
  first = int(np.argmax(again))
  user = events.user_ids[events.users[first]]
  item = items.item_ids[events.items[first]]
  count = int(np.count_nonzero(again))
  problems.add("duplicate_event", f"user {user}, item {item}", count)
  return events.take(~again)


def _with_used_kinds(events: events_lib.Events) -> events_lib.Events:
  """The events with the names of those kinds only that are left."""
  if events.kinds is None:
    return events
  used, kinds = np.unique(events.kinds, return_inverse=True)
  names = tuple(events.kind_names[code] for code in used)
  return dataclasses.replace(
    events, kinds=kinds.astype(np.int8), kind_names=names
  )


def _in_terms_of(
  core: events_lib.Events, whole: events_lib.Events, rows: np.ndarray
) -> events_lib.Events:
  """All events with the catalogue rows and the kinds of the k-core's.

  Args:
    core: Events of the k-core.
    whole: Events of all users.
    rows: int32[N], catalogue row of each item of the source, or -1.

  Returns:
    The events; items are -1 outside the catalogue, and where an event is of a
    kind that the k-core does not have.
  """
  items = rows[whole.items]
  if whole.kinds is None:
    return dataclasses.replace(whole, items=items)
  codes = np.array(
    [
      core.kind_names.index(name) if name in core.kind_names else -1
      for name in whole.kind_names
    ],
    np.int8,
  )
  kinds = codes[whole.kinds]
  return dataclasses.replace(
    whole,
    items=np.where(kinds < 0, np.int32(-1), items),
    kinds=kinds,
    kind_names=core.kind_names,
  )


def _rows(column: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
  return None if column is None else column[rows]


def _fraction(mask: np.ndarray) -> float:
  return float(np.mean(mask)) if len(mask) else 0.0


def _count(step: str, events: events_lib.Events) -> dict[str, Any]:
  count = {
    "step": step,
    "users": events_lib.distinct(events.users),
    "items": events_lib.distinct(events.items),
    "events": len(events),
  }
  if events.targets is not None:
    count["targets"] = int(np.sum(events.targets))
  return count


def _count_of_split(
  split: str, part: splits.Documents, events: events_lib.Events
) -> dict[str, Any]:
  rows = part.events()
  count = {
    "step": split,
    "users": events_lib.distinct(part.users[part.stops > part.starts]),
    "items": events_lib.distinct(events.items[rows]),
    "events": len(rows),
  }
  if events.targets is not None:
    count["targets"] = int(np.sum(events.targets[rows]))
  return count | {"documents": len(part)}
