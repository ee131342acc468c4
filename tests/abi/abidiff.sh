#!/usr/bin/env bash
# Does the library differ from the ABI's baseline in nothing but what capi/abi/baseline/allowed.abignore allows?
#   tests/abi/abidiff.sh <libkvgear.so> <include folder> <baseline folder>
# Needs abidiff and abidw (Debian, Ubuntu: abigail-tools) and a library with debug information; without them it is skipped.
set -euo pipefail
lib=${1:?library}; include=${2:?include folder}; baseline=${3:?baseline folder}
command -v abidiff >/dev/null || { echo "skipped: no abidiff here; install abigail-tools"; exit 77; }
readelf -SW "$lib" | grep '\.debug_info' >/dev/null || { echo "skipped: $lib has no debug information"; exit 77; }
[ "$(uname -m)" = x86_64 ] || { echo "skipped: the baseline is of x86-64"; exit 77; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"$(dirname "${BASH_SOURCE[0]}")/abixml.sh" "$lib" "$include" "$tmp/now.abi"

compare() { abidiff --suppressions "$baseline/allowed.abignore" "$1" "$tmp/now.abi"; }
status=0
compare "$baseline/libkvgear.abi" > "$tmp/report" 2>&1 || status=$?
cat "$tmp/report"
[ $status = 0 ] || { echo "FAILED: the ABI changed (abidiff: $status); read capi/ABI.md and $baseline/README.md" >&2; exit 1; }

# The check must be able to fail.
changed() {
  sed "$2" "$baseline/libkvgear.abi" > "$tmp/other.abi"
  ! cmp -s "$baseline/libkvgear.abi" "$tmp/other.abi" || { echo "FAILED: $1: there is no such thing in the baseline" >&2; exit 1; }
  status=0
  compare "$tmp/other.abi" > "$tmp/report" 2>&1 || status=$?
  [ $((status & 5)) = 4 ] || { cat "$tmp/report"; echo "FAILED: abidiff does not find $1 ($status)" >&2; exit 1; }
}
changed 'a function that is gone' 's/kvg_cache_truncate/kvg_cache_shorten/g'
changed 'a struct of another size' "s/name='kvg_shape' size-in-bits='160'/name='kvg_shape' size-in-bits='192'/"
pointer=$(sed -n "/<function-decl name='kvg_cache_length'/,/<\/function-decl>/s/.*type-id='\([^']*\)' name='cache'.*/\1/p" "$baseline/libkvgear.abi")
changed 'a parameter of another type' "/<function-decl name='kvg_cache_length'/,/<\/function-decl>/s/type-id='[^']*' name='layer'/type-id='$pointer' name='layer'/"
changed 'fields that changed places' "s/<var-decl name='q_heads'/<var-decl name='swap'/; s/<var-decl name='kv_heads'/<var-decl name='q_heads'/; s/<var-decl name='swap'/<var-decl name='kv_heads'/"
echo "as the baseline; four changes were found"
