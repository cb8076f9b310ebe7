# shellcheck shell=bash
# The exit status of a run that was preempted (by SIGTERM or the cloud's notice)
# and saved its state: the same command resumes it. Defined only here; sourced by
# scripts, read by launch/launcher/preemption.py.
# shellcheck disable=SC2034  # used by scripts that source this
PREEMPTED_STATUS=83
