#!/usr/bin/env bash
# Has every function its slot in kvg_api and its line in the conformance suite, and is every slot where capi/abi/table.txt has it?
#   tests/abi/table.sh <include folder> <table.txt> <api.h of the conformance suite> <C compiler>
set -euo pipefail
include=${1:?include folder}; record=${2:?table.txt}; list=${3:?api.h}; cc=${4:?C compiler}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
die() { echo "FAILED: $*" >&2; exit 1; }

sed -n '/^typedef struct kvg_api {/,/^} kvg_api;/s/^  .*(\*\([a-z0-9_]*\))(.*/\1/p' "$include/kvgear/kvgear_table.h" > "$tmp/slots"
diff -u "$record" "$tmp/slots" ||
  die "the slots of kvg_api (+) are not those of $record (-); a new one goes to the end of both, nothing else may change"

tr '\n' ' ' < "$include/kvgear/kvgear.h" | grep -o 'KVG_API [^;(]*(' | grep -o 'kvg_[a-z0-9_]*($' |
  sed 's/^kvg_//; s/($//' | LC_ALL=C sort > "$tmp/declared"
diff -u "$tmp/declared" <(LC_ALL=C sort "$tmp/slots") ||
  die "kvg_api has slots (+) that are not the functions of kvgear.h (-)"
diff -u "$tmp/declared" <(sed -n 's/^  X([^,]*, \([a-z0-9_]*\),.*/\1/p' "$list" | LC_ALL=C sort) ||
  die "$list has lines (+) that are not the functions of kvgear.h (-)"

# Where the slots are, as a C compiler sees it: two numbers of 32 bits, then one pointer after another.
{ echo '#include <kvgear/kvgear_table.h>'
  awk '{ printf "typedef char at_%s[offsetof(kvg_api, %s) == 8 + %d * sizeof(void *) ? 1 : -1];\n", $1, $1, NR - 1 }' "$record"
  printf 'typedef char size[sizeof(kvg_api) == 8 + %d * sizeof(void *) ? 1 : -1];\n' "$(wc -l < "$record")"
} > "$tmp/slots.c"
"$cc" -std=c89 -pedantic -Werror -fsyntax-only "-I$include" "$tmp/slots.c" || die "slots are not where the record has them"

# The check must be able to fail.
sed 's/== 8 +/== 16 +/' "$tmp/slots.c" > "$tmp/moved.c"
! "$cc" -std=c89 -fsyntax-only "-I$include" "$tmp/moved.c" 2>/dev/null || die "the compiler takes any offset, so this test shows nothing"
echo "$(wc -l < "$record") slots, as recorded"
