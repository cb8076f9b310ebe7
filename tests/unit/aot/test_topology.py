"""Names of TPU slices, and what is said of those that are none."""

import importlib.util

import pytest

from calrec_jax.aot import topology
from calrec_jax.runtime import chips


@pytest.mark.parametrize("name", ["v5e-16", "v5e:4", "4x4", "v5e:4x4x", ""])
def test_another_name_is_refused(name):
  with pytest.raises(topology.TopologyError, match="v5e:4x4, v6e:4x4"):
    topology.describe(name)


def test_no_slice_is_refused():
  with pytest.raises(topology.TopologyError, match="--slices=0"):
    topology.describe("v5e:4x4", 0)


def test_a_missing_compiler_is_named(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ModuleNotFoundError, match=r"calrec_jax\[tpu\]"):
    topology.describe("v5e:4x4")


def test_every_chip_has_a_peak():
  assert set(topology.CHIPS) <= set(chips.PEAK_FLOPS)
