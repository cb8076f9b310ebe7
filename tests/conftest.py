"""Eight fake CPU devices for every test, and strict array arithmetic."""

import importlib.metadata
import os
import pathlib

# Before JAX is imported anywhere: a mesh needs devices, a CPU has one.
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile more than they compute: XLA leaves out its dear passes.
_FLAGS = [
  "--xla_force_host_platform_device_count=8",
  "--xla_backend_optimization_level=0",
  "--xla_llvm_disable_expensive_passes=true",
]
# Kernels of the older emitters are compiled in a quarter of the time. Later
# versions do not have them, and abort at a flag that they do not know.
if importlib.metadata.version("jaxlib").startswith("0.10."):
  _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
# Those of the process that started this one are there already; written twice
# they would name other compiled programs.
_GIVEN = os.environ.get("XLA_FLAGS", "").split()
os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys((*_GIVEN, *_FLAGS)))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from jaxtyping import install_import_hook  # noqa: E402

# Shapes in annotations are checked while the tests run, and only then.
_hook = install_import_hook(
  [
    *("calrec_jax.models", "calrec_jax.metrics"),
    *("calrec_jax.recommend", "calrec_jax.evaluate"),
  ],
  "beartype.beartype",
)

import gin  # noqa: E402
import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

from tests.fixtures import compiled_programs  # noqa: E402

# A busy machine is slow, not wrong.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

jax.config.update("jax_numpy_rank_promotion", "raise")
compiled_programs.share()


def pytest_addoption(parser):
  parser.addoption(
    "--update-goldens",
    action="store_true",
    help="write the files of tests/golden anew instead of comparing",
  )


@pytest.hookimpl(tryfirst=True)  # Before those of no interest are left out.
def pytest_collection_modifyitems(items):
  """Only tests of one function on one device may be quick."""
  folder = pathlib.Path(__file__).parent
  for item in items:
    if item.path.relative_to(folder).parts[0] not in ("unit", "golden"):
      item.add_marker(pytest.mark.heavy)


def pytest_sessionfinish(session):
  if not hasattr(session.config, "workerinput"):  # The others are done.
    compiled_programs.prune()


@pytest.fixture(scope="module", autouse=True)
def _no_configuration_is_left():
  """Verbs leave gin configured; the next module must not see that."""
  yield
  gin.clear_config()
