#!/usr/bin/env bash
# A run on one TPU VM. See launch/tpu_vm.sh --help for an example; --dry_run
# prints every command without running it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
launch_with tpu_vm "$@"
