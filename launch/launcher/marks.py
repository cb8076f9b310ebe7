"""What a launcher made, so that it deletes that and nothing else.

When something is created, a token is drawn. It goes to the cloud as a label of
the thing and into a file here, before the thing is asked for. Only what carries
the token of the file is deleted. A name alone would not do: the thing may have
been deleted and another made under the same name. A label alone would not
either: a colleague's launcher sets labels too. Lost files are safe; what they
told of has then to be deleted by hand, and the message says with which command.
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
  """The files of one folder, one for each thing made.

  Attributes:
    folder: where they lie; made when first needed.
  """

  folder: pathlib.Path

  def draw(self, kind: str, name: str, **told: str) -> str:
    """A new token for a thing that is about to be made; it is on disk then.

    Args:
      kind: of thing, such as `queued-resource`.
      name: of the thing; what makes it unique, such as zone and name.
      **told: more that helps a reader of the file.
    """
    token = secrets.token_hex(8)
    self.write(kind, name, token=token, **told)
    return token

  def write(self, kind: str, name: str, **told: str) -> None:
    """Notes that a thing was made here."""
    self.folder.mkdir(parents=True, exist_ok=True)
    path = self._path(kind, name)
    written = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps({"kind": kind, "name": name, **told}, indent=2)
    written.write_text(text + "\n", "utf-8")
    written.replace(path)

  def read(self, kind: str, name: str) -> Mapping[str, str] | None:
    """What was noted of a thing; None for one that was not made here."""
    path = self._path(kind, name)
    return json.loads(path.read_text("utf-8")) if path.exists() else None

  def owns(self, kind: str, name: str, labels: Mapping[str, str]) -> bool:
    """Whether a thing with these labels is the one that was made here."""
    noted = self.read(kind, name)
    return noted is not None and labels.get(LABEL) == noted["token"]

  def forget(self, kind: str, name: str) -> None:
    """Notes that the thing is no more."""
    self._path(kind, name).unlink(missing_ok=True)

  def _path(self, kind: str, name: str) -> pathlib.Path:
    return self.folder / f"{kind}.{name.replace('/', '.')}.json"
