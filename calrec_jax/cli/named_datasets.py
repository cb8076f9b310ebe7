"""Datasets that are known by name, without a gin file of one's own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import NamedTuple

from calrec_jax import config
from calrec_jax.errors import nearest


class _Known(NamedTuple):
  """A family of datasets.

  Attributes:
    file: Gin file of the family.
    parts: Macro that names the requested datasets.
    folder: Parameter that names the folder of their files.
    whole: Whether `parts` takes names with what is before the slash.
  """

  file: str
  parts: str
  folder: str
  whole: bool


_AMAZON = _Known("data/amazon.gin", "CATEGORIES", "MANUAL_DIR", whole=True)
_KNOWN = {
  "amazon2014": _AMAZON,
  "amazon2018": _AMAZON,
  "amazon2023": _AMAZON,
  "completejourney": _Known(
    "data/completejourney.gin",
    "DEPARTMENTS",
    "CompleteJourney.folder",
    whole=False,
  ),
}
EXAMPLES = "amazon2018/Video_Games, completejourney/nutrition"


def configure(
  configuration: config.Configuration,
  names: Sequence[str],
  manual_dir: str | None,
) -> config.Configuration:
  """The configuration with datasets that the command line names.

  Args:
    configuration: Gin files and bindings of the command line. They win over
      those of the datasets.
    names: `amazon2018/Video_Games`, all of one family.
    manual_dir: Folder of the datasets' files.

  Raises:
    ConfigurationError: for an unknown family, with the nearest one.
  """
  if not names:
    if manual_dir is not None:
      raise config.ConfigurationError(
        f"--manual_dir needs the name of a dataset, such as {EXAMPLES}; in a "
        "gin file it is the macro MANUAL_DIR."
      )
    return configuration
  known = {_family(name) for name in names}
  if len(known) > 1:
    raise config.ConfigurationError(
      f"{', '.join(names)} are of several families; name those of one family."
    )
  (family,) = known
  parts = tuple(
    name if family.whole else name.partition("/")[2] for name in names
  )
  bindings = [f"{family.parts}={parts!r}"]
  if manual_dir is not None:
    folder = os.path.abspath(os.path.expanduser(manual_dir))
    bindings.append(f"{family.folder}={folder!r}")
  return dataclasses.replace(
    configuration,
    files=(family.file, *configuration.files),
    bindings=(*bindings, *configuration.bindings),
  )


def _family(name: str) -> _Known:
  family, slash, part = name.partition("/")
  if not slash or not part:
    raise config.ConfigurationError(
      f"{name!r} is no dataset's name; write one as in {EXAMPLES}."
    )
  if family not in _KNOWN:
    raise config.ConfigurationError(
      f"No dataset is called {name!r}: {family!r} is none of "
      f"{', '.join(_KNOWN)}.{nearest(family, _KNOWN)}"
    )
  return _KNOWN[family]
