#!/usr/bin/env bash
# A run on the hosts of a Slurm cluster. launch/slurm.sh --help says more, with an
# example; --dry_run prints every command and runs none.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
launch_with slurm "$@"
