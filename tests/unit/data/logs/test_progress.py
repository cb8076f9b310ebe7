"""Bars that are hidden for a while, whatever happens meanwhile."""

import pytest

from calrec_jax.data.logs import progress


def test_bars_are_hidden_meanwhile():
  with (
    progress.hidden(),
    progress.hidden(False),
    progress.of_bytes("read", 10) as bar,
  ):
    assert bar.disable is True
    bar.update(3)
  with pytest.raises(ValueError, match="stop"), progress.hidden():
    raise ValueError("stop")
  with progress.of_bytes("read", 10, 4) as bar:
    bar.update(3)
    assert bar.disable or bar.n == 7
