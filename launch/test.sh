#!/usr/bin/env bash
# Sets up an environment in the checkout and runs the tests.
#
#   launch/test.sh                 the default suite, some minutes on 2 cores
#   launch/test.sh --slow          the slow tests as well
#   launch/test.sh --pretrained    those that need pretrained weights: adds them
#                                  and PyTorch to the environment, about 1.5 GB
#   launch/test.sh tests/unit -k text   whatever else pytest understands
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

selection=(-m "not slow and not pretrained")
pretrained=false
case "${1:-}" in
  --slow)
    selection=(-m "not pretrained")
    shift
    ;;
  --pretrained)
    selection=(-m "pretrained")
    pretrained=true
    shift
    ;;
esac
make_environment
# The TPU compiler, 640 MB, beside the environment: within it, whatever uses JAX
# would look for a TPU. There is none for every machine.
export CALREC_TPU_COMPILER
CALREC_TPU_COMPILER="$(dirname "$(dirname "$PYTHON")")/tpu_compiler"
if ! add_to_environment "$ROOT/launch/locks/tpu.txt" \
  --upgrade --target "$CALREC_TPU_COMPILER"; then
  say "No TPU compiler could be installed: its tests will be skipped"
fi
if "$pretrained"; then
  add_to_environment "$ROOT/launch/locks/pretrained.txt"
  # An index may have PyTorch for GPUs alone, which does not start without
  # NVIDIA's libraries. Those differ by platform, so pip chooses them.
  if ! "$PYTHON" -c "import torch" 2> /dev/null; then
    "$PYTHON" -m pip install --disable-pip-version-check \
      --constraint "$ROOT/launch/locks/pretrained.txt" torch
  fi
fi
cd "$ROOT"
say "Style: ruff"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
say "Tests: pytest"
exec "$PYTHON" -m pytest --numprocesses=auto --dist=loadscope \
  "${selection[@]}" "$@"
