#!/usr/bin/env bash
# An older library than today's, built from the history of this repository, with programs of today's header on it; and the
# baseline that libraries to come are compared with. See capi/abi/baseline/README.md.
#   tests/abi/baseline.sh check <build folder>    builds the library of capi/abi/baseline/COMMIT to <build folder>/abi-baseline and
#                                                 runs client_new and dl of the build folder on it. Without git, or that commit
#                                                 (an archive, a shallow clone), it says so and ends with 77.
#   tests/abi/baseline.sh record <build folder>   makes today's headers and the library of the build folder the baseline
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
action=${1:?check or record}; build=$(realpath -m "${2:?build folder}")
baseline=capi/abi/baseline

if [ "$action" = record ]; then
  cp capi/include/kvgear/*.h $baseline/include/kvgear/
  abidw --headers-dir capi/include --drop-private-types --exported-interfaces-only --no-corpus-path --no-comp-dir-path \
    --type-id-style hash "$build/capi/libkvgear.so" --out-file $baseline/libkvgear.abi
  # Where a declaration stands, and what the library links with, is not its ABI.
  sed -i -e "s/ filepath='[^']*' line='[0-9]*' column='[0-9]*'//" -e '/<elf-needed>/,/<\/elf-needed>/d' $baseline/libkvgear.abi
  exit
fi
[ "$action" = check ] || { echo "baseline.sh: unknown action '$action'" >&2; exit 2; }

commit=$(cat $baseline/COMMIT)
work=$build/abi-baseline
skip() { echo "SKIPPED: $*"; mkdir -p build; echo "$*" > build/skipped; exit 77; }

command -v git >/dev/null || skip "the baseline library is built from history, and there is no git"
git cat-file -e "$commit^{commit}" 2>/dev/null || skip "the history here does not have the baseline, commit $commit"
lib=$work/build/capi/libkvgear.so
if [ "$(cat "$work/built" 2>/dev/null)" != "$commit" ]; then
  rm -rf "$work"
  mkdir -p "$work/source"
  git archive "$commit" | tar -x -C "$work/source"
  # It was written for the compilers of its time; its warnings are not ours to mend.
  cmake -S "$work/source" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_FLAGS_RELWITHDEBINFO='-O2 -g' \
    -DCMAKE_CXX_FLAGS_RELWITHDEBINFO='-O2 -g' -DKVGEAR_WERROR=OFF -DKVGEAR_BUILD_TESTS=OFF -DKVGEAR_BUILD_BENCH=OFF \
    -DKVGEAR_BUILD_EXAMPLES=OFF -DKVGEAR_DEPS_DIR="${KVGEAR_DEPS_DIR:-$PWD/.deps}" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
  cmake --build "$work/build" --target kvgear -j "${KVGEAR_JOBS:-$(nproc)}"
  echo "$commit" > "$work/built"
fi

"$build/tests/abi/client_new" "$lib"
"$build/tests/abi/dl" "$lib"
