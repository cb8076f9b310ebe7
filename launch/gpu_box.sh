#!/usr/bin/env bash
# A run on one machine with GPUs, here or reached by ssh. See
# launch/gpu_box.sh --help for an example; --dry_run prints every command without
# running it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
launch_with gpu_box "$@"
