#!/usr/bin/env bash
# Runs on every machine of a launch: a host of a TPU slice, a GPU box, a
# container. Call it directly only to inspect a host.
#
#   setup LOCKS [BUCKET]            create the environment; mount the bucket at
#                                   /mnt/BUCKET
#   setup_docker LOCKS              build the image of launch/Dockerfile instead
#   work VERBS -- FLAGS             run `calrec VERB FLAGS` for each verb
#   work_docker VOLUMES VERBS -- FLAGS      the same in that image
#   start NAME work VERBS -- FLAGS  the same, detached from the caller
#   follow NAME [all|new]           show its log until it ends
#   status NAME                     running, ended STATUS, lost or absent
#   stop NAME                       make it save and exit, and wait
#   pack FILE PATHS                 pack results into one archive
#
# LOCKS are files of launch/locks/ in addition to the Python's own, starting with
# tpu, cuda or cpu (which has none), separated by commas, as are VERBS:
# train,eval or 'data cache,train'. Flags of a single verb follow it, without
# spaces in them: 'train,eval --gin_file=mesh/gpu.gin'. Example:
#   launch/on_host.sh work train,eval -- --gin_file=recipes/quickstart.gin
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# Log, status and process of each detached run.
RUNS="${CALREC_RUNS:-$HOME/.calrec_runs}"
SHOW_SECONDS=0.3 # Interval between polls of a log.
IMAGE=calrec_jax
METADATA="http://${GCE_METADATA_IP:-metadata.google.internal}"
METADATA+=/computeMetadata/v1/instance/attributes

fail() {
  echo "on_host.sh: $*" >&2
  exit 2
}

# --- the environment

# The Python of TPU VM images is too old; uv installs a newer one.
bring_python() {
  if find_python > /dev/null 2>&1; then
    return
  fi
  say "No Python 3.11 to 3.13 with venv found: uv installs 3.12"
  if ! command -v uv > /dev/null; then
    python3 -m pip install --user --quiet uv
    export PATH="$HOME/.local/bin:$PATH"
  fi
  uv python install 3.12
  CALREC_PYTHON="$(uv python find 3.12)"
  export CALREC_PYTHON
}

mount_bucket() {
  local bucket="$1" folder="/mnt/$1"
  if mountpoint --quiet "$folder"; then
    return
  fi
  if ! command -v gcsfuse > /dev/null; then
    install_gcsfuse
  fi
  sudo mkdir -p "$folder"
  sudo chown "$(id -u):$(id -g)" "$folder"
  # Folders created by other tools have no object of their own; and a host must
  # immediately see what another one wrote.
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 \
    --metadata-cache-negative-ttl-secs=0 "$bucket" "$folder"
}

# Source: https://cloud.google.com/storage/docs/cloud-storage-fuse/install.
install_gcsfuse() {
  local key=/usr/share/keyrings/gcsfuse.asc release
  local packages=https://packages.cloud.google.com/apt
  if ! command -v apt-get > /dev/null; then
    fail "gcsfuse is not installed, and there is no apt-get to install it."
  fi
  release="$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)"
  curl --fail --silent --show-error "$packages/doc/apt-key.gpg" |
    sudo tee "$key" > /dev/null
  echo "deb [signed-by=$key] $packages gcsfuse-$release main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
  # A new machine may be busy with its own updates.
  sudo apt-get update --quiet --option DPkg::Lock::Timeout=300
  sudo apt-get install --quiet --yes --option DPkg::Lock::Timeout=300 gcsfuse
}

setup() {
  local bucket="${2:-}" name
  local -a names
  IFS=, read -ra names <<< "${1:?LOCKS}"
  bring_python
  make_environment
  for name in "${names[@]}"; do
    if [ "$name" != cpu ]; then
      add_to_environment "$ROOT/launch/locks/$name.txt"
    fi
  done
  if [ -n "$bucket" ]; then
    mount_bucket "$bucket"
  fi
}

setup_docker() {
  docker build --build-arg LOCKS="$1" --tag "$IMAGE:${1%%,*}" \
    --file "$ROOT/launch/Dockerfile" "$ROOT"
}

# The calrec of this checkout's environment, or the installed one, as in a
# container.
find_calrec() {
  local folder
  for folder in "$ROOT"/.venv-py3.1[123]; do
    if [ -e "$folder/.complete" ]; then
      echo "$folder/bin/calrec"
      return
    fi
  done
  command -v calrec || fail "calrec is not installed here; run setup first."
}

# --- index and number of processes

metadata() {
  curl --fail --silent --max-time 5 --header "Metadata-Flavor: Google" \
    "$METADATA/$1"
}

# megascale KEY DEFAULT: a multislice setting from a TPU VM's environment file.
megascale() {
  local value
  value="$(metadata tpu-env | sed -n "s/^$1: *'\(.*\)'/\1/p" || true)"
  echo "${value:-$2}"
}

# Sets PROCESS and PROCESSES, as the launching system defines them. Processes are
# ordered by slice, then by host, as in JAX.
find_process() {
  local hosts worker slice slices
  if [ -n "${CALREC_NUM_PROCESSES:-}" ]; then
    PROCESSES="$CALREC_NUM_PROCESSES" PROCESS="${CALREC_PROCESS_ID:?}"
    return
  elif [ -n "${SLURM_PROCID:-}" ]; then
    PROCESSES="${SLURM_NTASKS:?}" PROCESS="$SLURM_PROCID"
    return
  elif [ -n "${TPU_WORKER_HOSTNAMES:-}" ]; then # GKE
    hosts="$TPU_WORKER_HOSTNAMES" worker="${TPU_WORKER_ID:?}"
    slice="${MEGASCALE_SLICE_ID:-0}" slices="${MEGASCALE_NUM_SLICES:-1}"
  elif worker="$(metadata agent-worker-number)"; then # TPU VM
    hosts="$(metadata worker-network-endpoints)"
    slice="$(megascale MEGASCALE_SLICE_ID 0)"
    slices="$(megascale MEGASCALE_NUM_SLICES 1)"
  else
    PROCESSES=1 PROCESS=0
    return
  fi
  hosts="$(tr , '\n' <<< "$hosts" | grep -c .)"
  PROCESSES=$((hosts * slices)) PROCESS=$((slice * hosts + worker))
}

# --- the work

# Runs a command and forwards SIGTERM to it: a container and a Slurm job signal
# only the first process.
forward_term() {
  local child="" signalled="" status=0
  # Before the command starts: it may be signalled as soon as it runs.
  trap 'signalled=yes; [ -z "$child" ] || kill -TERM "$child" 2> /dev/null ||
    true' TERM INT
  "$@" &
  child=$!
  [ -z "$signalled" ] || kill -TERM "$child" 2> /dev/null || true
  wait "$child" || status=$?
  while [ -n "$signalled" ]; do # This wait may have ended with the signal.
    signalled="" status=0
    wait "$child" || status=$?
  done
  trap - TERM INT
  return "$status"
}

# Runs every verb of a list; verbs without collectives get a shard per process.
work() {
  local list="${1:?VERBS}" calrec verb word flag
  local -a verbs split words own shard
  shift
  [ "${1:-}" = -- ] || fail "work VERBS -- FLAGS: -- is missing."
  shift
  calrec="$(find_calrec)"
  find_process
  if [ "$PROCESSES" -gt 1 ] && [ -z "${CALREC_NUM_PROCESSES:-}" ]; then
    export CALREC_DISTRIBUTED="${CALREC_DISTRIBUTED:-auto}"
  fi
  IFS=, read -ra verbs <<< "$list"
  for verb in "${verbs[@]}"; do
    words=() own=() shard=()
    read -ra split <<< "$verb"
    for word in "${split[@]}"; do
      if [[ $word == -* ]]; then own+=("$word"); else words+=("$word"); fi
    done
    if [ "$PROCESSES" -gt 1 ] && [[ ${words[0]} == @(eval|infer) ]]; then
      shard=("--shard=$PROCESS/$PROCESSES")
      for flag in "$@" "${own[@]}"; do
        [[ $flag != --shard* ]] || shard=()
      done
    fi
    say "calrec $verb (process $PROCESS of $PROCESSES)"
    forward_term "$calrec" "${words[@]}" "$@" "${own[@]}" "${shard[@]}" ||
      return $?
  done
}

# VOLUMES are those of `docker run`, separated by commas, possibly none.
work_docker() {
  local volume
  local -a volumes options=(--rm --gpus all --user "$(id -u):$(id -g)")
  IFS=, read -ra volumes <<< "$1"
  shift
  mkdir -p "$ROOT/runs"
  # Results and caches outlive the container; its user has no home.
  options+=(--volume "$ROOT/runs:/calrec_jax/runs" --env HOME=/tmp)
  for volume in "${volumes[@]}"; do
    options+=(--volume "$volume")
  done
  options+=(--entrypoint launch/on_host.sh "$IMAGE:cuda")
  forward_term docker run "${options[@]}" work "$@"
}

# --- detached runs

this_boot() { cat /proc/sys/kernel/random/boot_id; }

running() {
  local boot process
  [ -e "$1/process" ] && [ ! -e "$1/status" ] || return 1
  read -r boot process < "$1/process"
  [ "$boot" = "$(this_boot)" ] && kill -0 "$process" 2> /dev/null
}

# Idempotent: tools retry when a connection breaks.
start() {
  local folder="$RUNS/${1:?NAME}"
  shift
  mkdir -p "$folder"
  if running "$folder"; then
    if [ "$(printf '%q ' "$@")" = "$(cat "$folder/command")" ]; then
      echo "It is already running."
      return
    fi
    fail "another command of this name is running: $(cat "$folder/command")"
  fi
  if [ -e "$folder/log" ]; then
    mv "$folder/log" "$folder/log.previous"
  fi
  rm -f "$folder/status"
  printf '%q ' "$@" > "$folder/command"
  setsid nohup bash "${BASH_SOURCE[0]}" record "$folder" "$@" \
    > "$folder/log" 2>&1 < /dev/null &
  echo "$(this_boot) $!" > "$folder/process"
}

record() {
  local folder="$1" status=0
  shift
  bash_run "$@" || status=$?
  echo "$status" > "$folder/status.new"
  mv "$folder/status.new" "$folder/status"
}

# The same script in a process of its own, so that `set -e` holds in it.
bash_run() { forward_term bash "${BASH_SOURCE[0]}" "$@"; }

# show LOG SHOWN: prints LOG after its first SHOWN bytes; sets SIZE.
show() {
  SIZE="$(stat --format=%s "$1")"
  if [ "$SIZE" -gt "$2" ]; then
    tail --bytes="+$(($2 + 1))" "$1" | head --bytes="$((SIZE - $2))"
  fi
}

# The first host shows its log, the others only if they fail. It ends with the
# status file, as `tail --pid` would not end in a container where ended processes
# are not reaped.
follow() {
  local folder="$RUNS/${1:?NAME}" shown=0
  [ -e "$folder/process" ] || fail "nothing of this name was started here."
  find_process
  if [ "${2:-all}" = new ]; then
    shown="$(stat --format=%s "$folder/log")"
  fi
  while running "$folder"; do
    if [ "$PROCESS" -eq 0 ]; then
      show "$folder/log" "$shown"
      shown="$SIZE"
    fi
    sleep "$SHOW_SECONDS"
  done
  if [ "$PROCESS" -eq 0 ]; then
    show "$folder/log" "$shown"
  elif [ "$(cat "$folder/status" 2> /dev/null || echo lost)" != 0 ]; then
    tail --lines=20 "$folder/log" | sed "s/^/[process $PROCESS] /" >&2
  fi
}

status() {
  local folder="$RUNS/${1:?NAME}" state=absent
  if [ -e "$folder/status" ]; then
    state="ended $(cat "$folder/status")"
  elif running "$folder"; then
    state=running
  elif [ -e "$folder/process" ]; then
    state=lost
  fi
  echo "calrec-run $(hostname): $state"
}

stop() {
  local folder="$RUNS/${1:?NAME}" process
  if ! running "$folder"; then
    echo "Nothing of this name is running here."
    return
  fi
  read -r _ process < "$folder/process"
  kill -TERM "$process"
  echo "Waiting for it to save and exit."
  while running "$folder"; do
    sleep "$SHOW_SECONDS"
  done
}

pack() {
  local file="${1:?FILE}"
  shift
  tar --create --gzip --file "$file" --directory "$ROOT" -- "$@"
}

case "${1:-}" in
  setup | setup_docker | work | work_docker | start | record | follow | \
    status | stop | pack) "$@" ;;
  *)
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac
