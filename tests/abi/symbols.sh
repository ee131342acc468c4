#!/usr/bin/env bash
# Does kvgear.h declare exactly what capi/abi/symbols.txt lists, and does the library export that, what the other headers
# declare (kvg_get_api), and nothing else?
#   tests/abi/symbols.sh <libkvgear.so> <symbols.txt> <folder of kvgear.h>
set -euo pipefail
lib=${1:?library}; list=${2:?symbols.txt}; headers=${3:?folder of kvgear.h}
header=$headers/kvgear.h
declared_in() { cat "$@" | tr '\n' ' ' | grep -o 'KVG_API [^;(]*(' | grep -o 'kvg_[a-z0-9_]*($' | tr -d '(' | LC_ALL=C sort -u; }

LC_ALL=C sort -cu "$list" || { echo "FAILED: $list is not sorted or has doubles" >&2; exit 1; }

exported=$(nm -D --defined-only "$lib" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | LC_ALL=C sort -u)
diff -u <(declared_in "$headers"/*.h) <(printf '%s\n' "$exported") ||
  { echo "FAILED: the exports (+) are not what the headers declare (-)" >&2; exit 1; }

# Every export carries the version of the map.
if nm -D --defined-only "$lib" | awk '$2 != "A"' | grep -v '@@KVG_[0-9]*$'; then
  echo "FAILED: exports without a version" >&2; exit 1
fi

declared=$(declared_in "$header")
diff -u "$list" <(printf '%s\n' "$declared") ||
  { echo "FAILED: the functions of $header (+) are not those of $list (-); read capi/ABI.md before changing the list" >&2; exit 1; }
echo "$(wc -l < "$list") functions, as listed"
