#!/usr/bin/env bash
# What a call costs from Rust, linked and loaded at run time, beside the same call from C: the least of all rounds. Exits non-zero if
# attention of one query over 1024 tokens costs more than 2 % more than from C.
#   bindings/rust/bench.sh [ROUNDS]      5 if not given. KVGEAR_BUILD_DIR: where libkvgear.so was built, default build/dev
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$(cd "${KVGEAR_BUILD_DIR:-$root/build/dev}" && pwd)
cd "$here"
export KVGEAR_LIB_DIR=$build/capi KVGEAR_LIBRARY=$build/capi/libkvgear.so
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${CC:-cc}" -O2 -I"$root/capi/include" ../bench/attend.c -o "$work/c" -L"$build/capi" -lkvgear \
  -Wl,-rpath,"$build/capi"
program() {  # NAME FEATURES: builds the benchmark and copies it
  local path
  path=$(cargo bench --no-run --quiet -p kvgear --bench overhead --features "$2" --message-format=json |
         sed -n 's/.*"name":"overhead".*"executable":"\([^"]*\)".*/\1/p')
  cp "$path" "$work/$1"
}
program rust ''
program dlopen dlopen

for _ in $(seq "${1:-5}"); do  # in turns, so that what else runs on the machine hits all of them
  for name in c rust dlopen; do "$work/$name" 2 | sed "s/^/$name /"; done
done | awk '
  { key = $1 " " $2; if (!(key in best) || $3 < best[key]) best[key] = $3 }
  END {
    printf "%-8s %14s %14s %14s   %s\n", "ns/call", "C", "Rust", "Rust, dlopen", "Rust to C"
    for (i = split("attend length", calls, " "); i >= 1; i--) {
      c = calls[i]
      printf "%-8s %14.1f %14.1f %14.1f   %+.2f %%\n", c, best["c " c], best["rust " c], best["dlopen " c],
        100 * (best["rust " c] / best["c " c] - 1)
    }
    exit best["rust attend"] > 1.02 * best["c attend"]
  }'
