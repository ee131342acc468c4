#!/usr/bin/env bash
# What a call costs from Java beside C: decode attention over 1024 tokens, and the cheapest call there is.
#   KVGEAR_BUILD_DIR=build/release bindings/java/bench.sh [rounds]
# C and Java take turns; the least of all rounds counts. Fails when attention costs over 5 % more from Java.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/env.sh"
rounds=${1:-5}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${CC:-cc}" -O2 -I"$root/capi/include" "$here/../bench/attend.c" -o "$work/c" -L"$build/capi" -lkvgear -Wl,-rpath,"$build/capi"
(cd "$here" && maven --quiet test-compile)
for _ in $(seq "$rounds"); do
  "$work/c" 2 | sed 's/^/c /'
  java -Dkvgear.library="$build/capi/libkvgear.so" -cp "$here/target/classes:$here/target/test-classes" org.kvgear.Overhead 3 | sed 's/^/java /'
done | awk '
  { key = $1 " " $2; if (!(key in least) || $3 + 0 < least[key]) least[key] = $3 + 0 }
  END {
    printf "attend at 1024 tokens: C %.0f ns, Java %.0f ns (%+.2f %%)\n", least["c attend"], least["java attend"], 100 * (least["java attend"] / least["c attend"] - 1)
    printf "cheapest call:         C %.0f ns, Java %.0f ns\n", least["c length"], least["java length"]
    exit least["java attend"] > 1.05 * least["c attend"]
  }'
