"""TPU types, by their own words."""

import pytest

from launch.launcher.accelerators import GkeSlice, generation, gke_slice
from launch.launcher.shell import LaunchError


@pytest.mark.parametrize(
  ("accelerator", "runtime"),
  [
    ("v5litepod-16", "v2-alpha-tpuv5-lite"),
    ("v6e-16", "v2-alpha-tpuv6e"),
    ("v5p-32", "v2-alpha-tpuv5"),
    ("v4-32", "tpu-ubuntu2204-base"),
  ],
)
def test_the_runtime_version(accelerator, runtime):
  assert generation(accelerator).runtime == runtime


@pytest.mark.parametrize(
  ("topology", "expected"),
  [
    ("v5e:1x1", GkeSlice("tpu-v5-lite-podslice", "1x1", 1, 1)),
    ("v5e:2x4", GkeSlice("tpu-v5-lite-podslice", "2x4", 1, 8)),
    ("v5e:4x4", GkeSlice("tpu-v5-lite-podslice", "4x4", 4, 4)),
    ("v6e:16x16", GkeSlice("tpu-v6e-slice", "16x16", 64, 4)),
    ("v5p:2x2x1", GkeSlice("tpu-v5p-slice", "2x2x1", 1, 4)),
    ("v4:2x2x4", GkeSlice("tpu-v4-podslice", "2x2x4", 4, 4)),
  ],
)
def test_a_slice_of_gke(topology, expected):
  assert gke_slice(topology) == expected


@pytest.mark.parametrize(
  ("topology", "remedy"),
  [
    ("v5litepod:4x4", "Did you mean v5e?"),
    ("4x4", "must start with one of"),
    ("v5e:2x2x2", "2 sides, as in v5e:4x4"),
    ("v5p:4x4", "3 sides, as in v5p:2x2x2"),
    ("v5e:4x0", "2 sides"),
    ("v5e:3x3", "whole hosts of 4"),
  ],
)
def test_an_unknown_topology_is_refused(topology, remedy):
  with pytest.raises(LaunchError) as raised:
    gke_slice(topology)
  assert remedy in str(raised.value)
