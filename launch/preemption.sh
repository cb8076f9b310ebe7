# shellcheck shell=bash
# The exit status of a run that was told to leave (SIGTERM, or the cloud's
# notice), saved its state, and wants to be started again: the same command
# goes on where it was. The one place that names it; sourced by scripts, read
# by launch/launcher/preemption.py.
# shellcheck disable=SC2034  # used by those who source this
PREEMPTED_STATUS=83
