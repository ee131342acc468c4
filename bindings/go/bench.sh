#!/usr/bin/env bash
# What a call costs from Go beside C: decode attention over 1024 tokens, and the cheapest call there is.
#   KVGEAR_BUILD_DIR=build/release bindings/go/bench.sh [rounds]
# C and Go take turns; the least of all rounds counts. Fails when attention costs over 2 % more from Go.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
. "$here/env.sh"
rounds=${1:-5}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${CC:-cc}" -O2 -I"$root/capi/include" "$here/../bench/attend.c" -o "$work/c" -L"$build/capi" -lkvgear -Wl,-rpath,"$build/capi"
(cd "$here" && go test -c -o "$work/go" .)
for _ in $(seq "$rounds"); do
  "$work/c" 2 | sed 's/^/c /'
  KVGEAR_OVERHEAD=2 "$work/go" -test.run '^TestOverhead$' | grep -E '^(attend|length)' | sed 's/^/go /'
done | awk '
  { key = $1 " " $2; if (!(key in least) || $3 + 0 < least[key]) least[key] = $3 + 0 }
  END {
    printf "attend at 1024 tokens: C %.0f ns, Go %.0f ns (%+.2f %%)\n", least["c attend"], least["go attend"], 100 * (least["go attend"] / least["c attend"] - 1)
    printf "cheapest call:         C %.0f ns, Go %.0f ns\n", least["c length"], least["go length"]
    exit least["go attend"] > 1.02 * least["c attend"]
  }'
