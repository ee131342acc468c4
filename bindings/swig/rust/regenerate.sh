#!/usr/bin/env bash
# Makes the generated files of bindings/rust again from bindings/swig/kvgear.i and kvgear.h.
#   bindings/swig/rust/regenerate.sh [FOLDER]     FOLDER: where the crates lie, default bindings/rust
# Needs SWIG of the pinned version and Python 3.9 or newer; nothing else.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
out=${1:-$root/bindings/rust}
swig=${SWIG:-swig}
pinned=4.1

found=$("$swig" -version 2>/dev/null | sed -n 's/^SWIG Version //p') ||
  { echo "regenerate: '$swig' does not run; install swig $pinned or set SWIG" >&2; exit 1; }
case $found in
  "$pinned".*) ;;
  *) echo "regenerate: SWIG is $found but the generated files are made with $pinned" >&2; exit 1 ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$swig" -xml -Wall -Werror -DSWIGWORDSIZE64 -I"$root/capi/include" -I"$root/bindings/swig" \
  -o "$work/kvgear.xml" "$root/bindings/swig/kvgear.i"
PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1 python3 -m swigrust \
  "$work/kvgear.xml" "$root/capi/include/kvgear/kvgear.h" "$out"
