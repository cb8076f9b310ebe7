#!/usr/bin/env bash
# A run on the hosts of a Slurm cluster. See
# launch/slurm.sh --help for an example; --dry_run prints every command without
# running it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
launch_with slurm "$@"
