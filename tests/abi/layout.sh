#!/usr/bin/env bash
# Is the layout of the public structs what capi/abi/layout.txt has on record, and is all of kvgear.h on record?
#   tests/abi/layout.sh <layout program> <layout.txt> <kvgear.h>
set -euo pipefail
program=${1:?layout program}; record=${2:?layout.txt}; header=${3:?kvgear.h}
lp64=$(getconf LONG_BIT 2>/dev/null || echo 64)
[ "$lp64" = 64 ] || { echo "skipped: the record is for LP64"; exit 77; }
found=$("$program")
if ! diff -u "$record" <(printf '%s\n' "$found"); then
  echo "FAILED: the layout changed. Read capi/ABI.md; then record it with: $program > $record" >&2
  exit 1
fi

missing=0
for name in $(sed -n 's/^typedef struct \(kvg_[a-z0-9_]*\) {.*/struct \1/p; s/^  \(KVG_[A-Z0-9_]*\) = .*/constant \1/p' "$header" |
              sed 's/ /:/'); do
  kind=${name%%:*}; name=${name#*:}
  grep -q "^$kind *$name " "$record" || { echo "FAILED: $kind $name is not in tests/abi/layout.c" >&2; missing=1; }
done
[ "$missing" = 0 ]
echo "$(grep -c '^struct' "$record") structs and $(grep -c '^constant' "$record") constants as recorded"
