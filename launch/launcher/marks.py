"""Records of what a launcher created, so that it deletes nothing else.

Before a resource is created, a random token is written to a file here; the
cloud stores it as the resource's label. Only a resource whose label has the
token of the file is deleted. A name would not suffice, as the resource may have
been deleted and another created under the same name, nor would a label, as a
colleague's launcher sets labels too. If files are lost, their resources must be
deleted by hand, and the message has the command.
"""

import dataclasses
import json
import os
import pathlib
import secrets
from collections.abc import Mapping

LABEL = "calrec-launch"


@dataclasses.dataclass(frozen=True)
class Marks:
  """The files of one folder, one for each resource.

  Attributes:
    folder: Folder of the files; created when first needed.
  """

  folder: pathlib.Path

  def new_token(self, kind: str, name: str, **details: str) -> str:
    """Writes and returns a new token for a resource to be created.

    Args:
      kind: Kind of resource, such as `queued-resource`.
      name: Unique name of the resource, such as zone and name.
      **details: Extra information for readers of the file.
    """
    token = secrets.token_hex(8)
    self.write(kind, name, token=token, **details)
    return token

  def write(self, kind: str, name: str, **details: str) -> None:
    """Records that a resource was created here."""
    self.folder.mkdir(parents=True, exist_ok=True)
    path = self._path(kind, name)
    written = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps({"kind": kind, "name": name, **details}, indent=2)
    written.write_text(text + "\n", "utf-8")
    written.replace(path)

  def read(self, kind: str, name: str) -> Mapping[str, str] | None:
    """The record of a resource; None if it was not created here."""
    path = self._path(kind, name)
    return json.loads(path.read_text("utf-8")) if path.exists() else None

  def owns(self, kind: str, name: str, labels: Mapping[str, str]) -> bool:
    """Whether a resource with these labels was created here."""
    noted = self.read(kind, name)
    return noted is not None and labels.get(LABEL) == noted["token"]

  def forget(self, kind: str, name: str) -> None:
    """Removes the record of a deleted resource."""
    self._path(kind, name).unlink(missing_ok=True)

  def _path(self, kind: str, name: str) -> pathlib.Path:
    return self.folder / f"{kind}.{name.replace('/', '.')}.json"
