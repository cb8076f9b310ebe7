"""The window of steps that JAX's profiler records."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.train.profiling import (
  Profiler,
  ProfileWindow,
  training_step,
)


def _run(window, folder, steps):
  profiler = Profiler(window, folder)
  step_fn = jax.jit(jnp.cos)
  value, ended = jnp.zeros(()), []
  for step in range(1, steps + 1):
    profiler.before(step)
    value = step_fn(value)
    if profiler.after(step, value) is not None:
      ended.append(step)
  profiler.close()
  return ended


def test_the_window_is_recorded(tmp_path):
  assert _run(ProfileWindow(first_step=2, steps=2), tmp_path, 5) == [3]
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_run_preempted_in_the_window_ends_the_recording(tmp_path):
  assert _run(ProfileWindow(first_step=2, steps=9), tmp_path, 3) == []
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_by_default_nothing_is_recorded(tmp_path):
  assert _run(ProfileWindow(), tmp_path, 3) == []
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["first_step", "steps"])
def test_a_window_without_a_step_is_refused(name):
  with pytest.raises(ValueError, match=f"ProfileWindow.{name}"):
    ProfileWindow(**{name: 0})


def test_a_step_refuses_implicit_transfers_and_allows_explicit_ones():
  double = jax.jit(lambda array: array * 2)
  double(jnp.ones(3))  # Compiled outside.
  with training_step(1):
    doubled = double(jax.device_put(np.ones(3, np.float32)))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
      double(np.ones(3, np.float32))
    assert jax.device_get(doubled).tolist() == [2.0] * 3


def test_a_step_is_named_in_profiles(monkeypatch):
  named = []

  class Annotation(jax.profiler.StepTraceAnnotation):
    def __init__(self, name, **metadata):
      named.append((name, metadata))
      super().__init__(name, **metadata)

  monkeypatch.setattr(jax.profiler, "StepTraceAnnotation", Annotation)
  with training_step(7):
    pass
  assert named == [("train", {"step_num": 7})]
