#!/usr/bin/env bash
# Valgrind's memcheck over a finished build: reads of memory that is not there or was never set, in the SIMD kernels too (as AVX2: valgrind
# has no AVX-512), and what is never freed.
#   tests/valgrind.sh <build folder> [PROGRAM...]    programs below <build folder>/tests, for example unit/segment_test
# Without programs: the conformance suite, and the unit tests that take less than some seconds without valgrind.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=$(realpath "${1:?build folder}"); shift
command -v valgrind >/dev/null || { echo "skipped: no valgrind here; apt-get install valgrind"; mkdir -p "$here/../build"
  echo 'no valgrind' > "$here/../build/skipped"; exit 77; }
programs=("$@")
if [ ${#programs[@]} = 0 ]; then
  programs=(conformance/linked)
  for test in "$build"/tests/unit/*_test; do
    case $(basename "$test") in
      # long, or of the size of all memory; death tests start programs that valgrind does not follow
      big_cache_test|cache_fault_test|cache_history_test|saved_cache_test|plugin_test) ;;
      *) programs+=("unit/$(basename "$test")") ;;
    esac
  done
fi
cd "$here/.."
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for program in "${programs[@]}"; do
  arguments=()
  case $program in conformance/linked) arguments=("$build/capi/libkvgear.so") ;; esac
  start=$SECONDS
  status=0
  valgrind --quiet --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite,indirect --fair-sched=yes \
    --suppressions="$here/valgrind.supp" "$build/tests/$program" "${arguments[@]}" >"$log" 2>&1 || status=$?
  if [ $status = 0 ]; then printf '%-32s clean, %d s\n' "$program" $((SECONDS - start))
  else failed=$((failed + 1)); tail -60 "$log"; printf '%-32s FAILED (%d)\n' "$program" $status; fi
done
[ $failed = 0 ]
