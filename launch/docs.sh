#!/usr/bin/env bash
# Builds the docs site, strictly: a broken link or an unknown page is an error.
#
#   launch/docs.sh           into build/site
#   launch/docs.sh --serve   and shows it on http://127.0.0.1:8000 while you write
#
# It needs a Python and none of the library's requirements: the reference is
# read from the source. What it needs itself is in launch/locks/docs.txt.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

verb=(build --strict)
case "${1:-}" in
  "") ;;
  --serve)
    verb=(serve)
    shift
    ;;
  *)
    echo "launch/docs.sh: $1 is unknown; it takes nothing, or --serve" >&2
    exit 2
    ;;
esac

python="$(find_python)"
version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
lock="$ROOT/launch/locks/docs.txt"
folder="$ROOT/.venv-docs-py$version"
wanted="$(sha256sum < "$lock") $ROOT"
if [ "$(cat "$folder/.complete" 2> /dev/null)" != "$wanted" ]; then
  say "Python $version: making the environment $folder (under a minute, 0.2 GB)"
  rm -rf "$folder"
  "$python" -m venv "$folder"
  # A lock is complete: nothing beside it may be chosen.
  "$folder/bin/python" -m pip install --disable-pip-version-check --quiet \
    --no-deps --requirement "$lock"
  "$folder/bin/python" -m pip check
  echo "$wanted" > "$folder/.complete"
fi
cd "$ROOT"
# A notice about the next MkDocs, whose major version the lock excludes.
export NO_MKDOCS_2_WARNING=1
exec "$folder/bin/python" -m mkdocs "${verb[@]}" "$@"
