# shellcheck shell=bash
# Makes the Python environment that the scripts of this folder run in.
# Sourced by them; sets ROOT and PYTHON.
#
# The environment lies in the checkout, one for each Python version, and is
# made again when the lock file or setup.py has changed. A file marks it as
# complete, so a stopped script starts it afresh.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

# The newest supported Python that runs and can make environments. A name on
# PATH may be a launcher for a version that is not installed, so each is tried.
# Of an activated environment it is the Python beneath: the environment may be
# the very one that is made again.
find_python() {
  local name
  for name in ${CALREC_PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
    if "$name" -c '
import sys, venv, ensurepip
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
  sys.exit(1)
print(sys._base_executable)' 2>/dev/null; then
      return
    fi
  done
  echo "calrec_jax needs Python 3.11, 3.12 or 3.13 with venv; none was found." \
    "On Debian: apt-get install python3 python3-venv. Another one can be" \
    "named: CALREC_PYTHON=/path/to/python $0" >&2
  return 1
}

# make_environment EXTRAS: EXTRAS are those of setup.py, such as [test].
make_environment() {
  local python version lock wanted folder
  python="$(find_python)"
  version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
  lock="$ROOT/launch/locks/py$version.txt"
  folder="$ROOT/.venv-py$version"
  wanted="$(cat "$lock" "$ROOT/setup.py" | sha256sum)"
  PYTHON="$folder/bin/python"
  if [ "$(cat "$folder/.complete" 2>/dev/null)" = "$wanted $ROOT" ]; then
    say "Python $version: environment $folder is up to date"
    return
  fi
  say "Python $version: making the environment $folder (about 2 minutes, 3 GB)"
  rm -rf "$folder"
  "$python" -m venv "$folder"
  # A lock is complete: nothing beside it may be chosen.
  "$PYTHON" -m pip install --disable-pip-version-check --progress-bar on \
    --no-deps --requirement "$lock"
  "$PYTHON" -m pip install --disable-pip-version-check --quiet \
    --no-deps --no-build-isolation --editable "$ROOT"
  "$PYTHON" -m pip check
  echo "$wanted $ROOT" > "$folder/.complete"
}

# add_to_environment LOCK [PIP_FLAGS]: adds what another lock names; after
# make_environment, which removes it when it makes the environment again.
add_to_environment() {
  local lock="$1" folder stamp wanted
  shift
  folder="$(dirname "$(dirname "$PYTHON")")"
  stamp="$folder/.complete-$(basename "$lock")"
  wanted="$(sha256sum < "$lock")"
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  say "Adding $lock"
  # Returns for itself: `set -e` is off where a caller tests its status.
  "$PYTHON" -m pip install --disable-pip-version-check --progress-bar on \
    --no-deps --requirement "$lock" "$@" || return 1
  echo "$wanted" > "$stamp"
}

# launch_with MODULE ARGUMENTS: a launch script's logic, launch/launcher/MODULE.
# It needs Python alone, no environment, and works from the checkout's folder.
launch_with() {
  local python
  python="$(find_python)"
  cd "$ROOT" || return
  exec "$python" -m "launch.launcher.$1" "${@:2}"
}
