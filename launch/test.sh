#!/usr/bin/env bash
# Sets up an environment in the checkout and runs the tests.
#
#   launch/test.sh                 the default suite, some minutes on 2 cores
#   launch/test.sh --quick         what takes little time, within 90 seconds
#   launch/test.sh --slow          the slow tests as well
#   launch/test.sh --tpu           with the TPU compiler, 640 MB, which CI has as
#                                  well: other runs skip the tests that need it
#   launch/test.sh --pretrained    those that need pretrained weights: adds them
#                                  and PyTorch to the environment, about 1.5 GB
#   launch/test.sh tests/unit -k text   whatever else pytest understands
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

selection="not slow and not pretrained"
pretrained=false
quick=false
tpu="${CI:-false}"
while true; do
  case "${1:-}" in
    --quick)
      selection+=" and not heavy"
      quick=true
      tpu=false
      ;;
    --slow) selection="not pretrained" ;;
    --tpu) tpu=true ;;
    --pretrained)
      selection="pretrained"
      pretrained=true
      ;;
    *) break ;;
  esac
  shift
done
make_environment
unset CALREC_TPU_COMPILER
if [ "$tpu" = true ]; then
  # Beside the environment: within it, whatever uses JAX would look for a TPU.
  # There is none for every machine.
  compiler="$(dirname "$(dirname "$PYTHON")")/tpu_compiler"
  if add_to_environment "$ROOT/launch/locks/tpu.txt" \
    --upgrade --target "$compiler"; then
    export CALREC_TPU_COMPILER="$compiler"
  else
    say "No TPU compiler could be installed: its tests will be skipped"
  fi
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
# CI builds the docs site, too; elsewhere its test is skipped.
if [ "${CI:-false}" = true ]; then
  add_to_environment "$ROOT/launch/locks/docs.txt"
fi
cd "$ROOT"
say "Style: ruff"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
if [ "$quick" = false ]; then
  say "Types: pyright"
  "$PYTHON" -m launch.check_types
fi
say "Tests: pytest"
exec "$PYTHON" -m pytest --numprocesses=auto --dist=worksteal \
  -m "$selection" "$@"
