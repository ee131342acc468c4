#!/usr/bin/env bash
# Does the library export exactly what capi/abi/symbols.txt lists, and does the header declare exactly that?
#   tests/abi/symbols.sh <libkvgear.so> <symbols.txt> <kvgear.h>
set -euo pipefail
lib=${1:?library}; list=${2:?symbols.txt}; header=${3:?kvgear.h}

LC_ALL=C sort -cu "$list" || { echo "FAILED: $list is not sorted or has doubles" >&2; exit 1; }

exported=$(nm -D --defined-only "$lib" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | LC_ALL=C sort -u)
diff -u "$list" <(printf '%s\n' "$exported") ||
  { echo "FAILED: the exports (+) are not those of $list (-); read capi/ABI.md before changing the list" >&2; exit 1; }

# Every export carries the version of the map.
if nm -D --defined-only "$lib" | awk '$2 != "A"' | grep -v '@@KVG_[0-9]*$'; then
  echo "FAILED: exports without a version" >&2; exit 1
fi

declared=$(tr '\n' ' ' < "$header" | grep -o 'KVG_API [^;(]*(' | grep -o 'kvg_[a-z0-9_]*($' | tr -d '(' | LC_ALL=C sort -u)
diff -u "$list" <(printf '%s\n' "$declared") ||
  { echo "FAILED: the functions of $header (+) are not those of $list (-)" >&2; exit 1; }
echo "$(wc -l < "$list") functions, as listed"
