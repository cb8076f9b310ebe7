#!/usr/bin/env bash
# The job that launch/slurm.sh submits; Slurm runs a copy of this file, in the
# checkout's folder, on the first host.
#
#   slurm_job.sh MAX_PREEMPTIONS MAX_RETRIES LOCKS VERBS -- FLAGS
set -euo pipefail
# shellcheck source-path=SCRIPTDIR/..
source launch/preemption.sh
max_preemptions="$1" max_retries="$2" locks="$3"
shift 3

# Once, as all hosts share the folder.
bash launch/on_host.sh setup "$locks"
status=0
# The first host to exit must not end the others while they save.
srun --kill-on-bad-exit=0 --wait=600 \
  bash launch/on_host.sh work "$@" || status=$?
restarts="${SLURM_RESTART_COUNT:-0}"
if [ "$status" -eq 0 ]; then
  exit 0
elif [ "$status" -eq "$PREEMPTED_STATUS" ]; then
  most="$max_preemptions"
  echo "== Preempted, state saved; restart $restarts of at most $most."
else
  most="$max_retries"
  echo "== Failed with status $status; restart $restarts of at most $most."
fi
if [ "$restarts" -lt "$most" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
