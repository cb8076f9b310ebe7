#!/usr/bin/env bash
# A run on one machine with GPUs, here or behind ssh. launch/gpu_box.sh --help says more, with an
# example; --dry_run prints every command and runs none.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
launch_with gpu_box "$@"
