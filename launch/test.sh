#!/usr/bin/env bash
# Sets up an environment in the checkout and runs the tests.
#
#   launch/test.sh                 the default suite, some minutes on 2 cores
#   launch/test.sh --slow          everything, the slow tests included
#   launch/test.sh tests/unit -k text   whatever else pytest understands
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

selection=(-m "not slow")
if [ "${1:-}" = "--slow" ]; then
  selection=()
  shift
fi
make_environment
cd "$ROOT"
say "Style: ruff"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
say "Tests: pytest"
exec "$PYTHON" -m pytest --numprocesses=auto --dist=loadscope \
  "${selection[@]}" "$@"
