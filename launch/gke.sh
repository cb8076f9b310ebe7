#!/usr/bin/env bash
# A run on TPU slices of a GKE cluster, by a JobSet. See
# launch/gke.sh --help for an example; --dry_run prints every command without
# running it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
launch_with gke "$@"
