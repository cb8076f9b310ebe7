#!/usr/bin/env bash
# A run on TPU slices, by a queued resource. launch/tpu_pod.sh --help says more, with an
# example; --dry_run prints every command and runs none.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
launch_with tpu_pod "$@"
