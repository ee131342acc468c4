#!/usr/bin/env bash
# The one test command: sets the machine up, builds, and runs every test.
#
#   tests/run.sh           setup, dev, asan-ubsan, tsan (tests labelled "thread"), install check
#   tests/run.sh --quick   setup and dev only
#
# KVGEAR_SKIP_SETUP=1 leaves the setup out. Exits non-zero if anything failed; the table at the end says what.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

quick=0
for arg in "$@"; do
  case $arg in
    --quick) quick=1 ;;
    -h|--help) sed -n '2,7s/^# \{0,1\}//p' tests/run.sh; exit 0 ;;
    *) echo "tests/run.sh: unknown argument '$arg' (there is --quick)" >&2; exit 2 ;;
  esac
done

jobs=$(nproc)
stages=()
[ "${KVGEAR_SKIP_SETUP:-0}" = 1 ] || stages+=(setup)
stages+=(dev-build dev-test)
[ $quick = 1 ] || stages+=(asan-ubsan-build asan-ubsan-test tsan-build tsan-test install-check)

# gcc's thread sanitizer cannot live with some kernels' address randomisation; without it, it always can.
no_aslr=()
if setarch "$(uname -m)" -R true 2>/dev/null; then no_aslr=(setarch "$(uname -m)" -R); fi

build() { cmake --preset "$1" >"build/$1-configure.log" 2>&1 || { cat "build/$1-configure.log"; return 1; }
          cmake --build --preset "$1" -j "$jobs" "${@:2}"; }
check() { "${@:2}" ctest --preset "$1" -j "$jobs" --output-on-failure --no-tests=error; }

run_stage() {
  case $1 in
    setup) core/deps/install.sh ;;
    dev-build) build dev ;;
    dev-test) check dev ;;
    asan-ubsan-build) build asan-ubsan ;;
    asan-ubsan-test) check asan-ubsan ;;
    tsan-build) build tsan --target tests/thread/all ;;  # tests labelled "thread" live in tests/thread
    tsan-test) check tsan "${no_aslr[@]}" ;;
    install-check) tests/install/check.sh build/dev ;;
  esac
}

clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

mkdir -p build
declare -A result
passed=0; failed=0; n=0
for stage in "${stages[@]}"; do
  n=$((n + 1))
  case $stage in
    *-test|install-check)  # nothing to test where the build failed
      needs=${stage%-test}-build
      if [ "$stage" = install-check ]; then needs=dev-build; fi
      if [ "${result[$needs]:-}" != "" ] && [[ ${result[$needs]} != passed* ]]; then
        result[$stage]='not run'; continue
      fi ;;
  esac
  printf '\n=== stage %d of %d: %s (%s since the start) ===\n' "$n" "${#stages[@]}" "$stage" "$(clock $SECONDS)"
  start=$SECONDS
  if run_stage "$stage"; then
    result[$stage]="passed  $(clock $((SECONDS - start)))"; passed=$((passed + 1))
  else
    result[$stage]="FAILED  $(clock $((SECONDS - start)))"; failed=$((failed + 1))
    if [ "$stage" = setup ] || [ "$stage" = dev-build ]; then break; fi
  fi
done

printf '\n=== summary (%s) ===\n' "$(clock $SECONDS)"
for stage in "${stages[@]}"; do
  printf '  %-18s %s\n' "$stage" "${result[$stage]:-not run}"
done
printf 'stages: %d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
