"""Identities: everything that determines saved work, and its digest.

An identity is a JSON value. It lists the data, the checkpoint, the settings
and, instead of source code, a small version number of each component whose code
determines the content; changing such code means raising its version.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

_SHORT = 16  # Hexadecimal digits, in names of files and folders.


def digest(value: Any) -> str:
  """sha256 of a text, or of a JSON value with sorted keys."""
  if not isinstance(value, str):
    value = json.dumps(value, sort_keys=True, default=str)
  return hashlib.sha256(value.encode()).hexdigest()


def fingerprint(value: Any) -> str:
  """sha256 of a JSON value with sorted keys and no spaces, as data have it."""
  text = json.dumps(value, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()


def short_digest(value: Any) -> str:
  """The first digits of `digest`, for names of files and folders."""
  return digest(value)[:_SHORT]


def file_sha256(path: str | os.PathLike[str]) -> str:
  """sha256 of a file's content."""
  with open(path, "rb") as stream:
    return hashlib.file_digest(stream, "sha256").hexdigest()


def plain(value: Any) -> Any:
  """The value as JSON would return it: with lists for tuples."""
  if isinstance(value, Mapping):
    return {key: plain(child) for key, child in value.items()}
  if isinstance(value, tuple | list):
    return [plain(child) for child in value]
  return value


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
  """The differences of two records, one per line: `path: was 1, is 2`."""
  old, new = _flat(before), _flat(now)
  return [
    f"{key}: was {old.get(key)!r}, is {new.get(key)!r}"
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key)
  ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
  if isinstance(value, Mapping):
    parts: dict[str, Any] = {}
    for key, child in value.items():
      parts.update(_flat(child, f"{prefix}.{key}" if prefix else str(key)))
    return parts
  return {prefix: value}
