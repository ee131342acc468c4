#!/usr/bin/env bash
# The one test command: sets the machine up, builds, and runs every test.
#
#   tests/run.sh           setup, dev, an older library, asan-ubsan, tsan (tests labelled "thread"), install check, bindings, services, CUDA
#   tests/run.sh --quick   setup and dev only
#   tests/run.sh --coverage   setup, then all tests with core and capi counting what runs, and the figures (build/coverage)
#   tests/run.sh --only go,services   these stages, in what is built already
#
# A language whose toolchain is missing and cannot be installed is skipped, and the end says so; with KVGEAR_REQUIRE_ALL=1 that is a failure.
# KVGEAR_SKIP_SETUP=1 installs nothing. Exits non-zero if anything failed; the table at the end says what.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

quick=0; coverage=0; only=''
while [ $# -gt 0 ]; do
  arg=$1; shift
  case $arg in
    --quick) quick=1 ;;
    --coverage) coverage=1 ;;
    --only) only=${1:?--only needs the names of stages}; shift ;;
    -h|--help) sed -n '2,10s/^# \{0,1\}//p' tests/run.sh; exit 0 ;;
    *) echo "tests/run.sh: unknown argument '$arg' (there are --quick, --coverage and --only)" >&2; exit 2 ;;
  esac
done

jobs=$(nproc)
stages=()
[ "${KVGEAR_SKIP_SETUP:-0}" = 1 ] || stages+=(setup)
stages+=(dev-build dev-test)
[ $quick = 1 ] || stages+=(asan-ubsan-build asan-ubsan-test tsan-build tsan-test install-check abi-baseline
                        bindings-check go rust java services cuda-build)
[ $coverage = 0 ] || { stages=(coverage-build coverage-test coverage); [ "${KVGEAR_SKIP_SETUP:-0}" = 1 ] || stages=(setup "${stages[@]}"); }
[ -z "$only" ] || IFS=, read -ra stages <<<"$only"

# gcc's thread sanitizer cannot live with some kernels' address randomisation; without it, it always can.
no_aslr=()
if setarch "$(uname -m)" -R true 2>/dev/null; then no_aslr=(setarch "$(uname -m)" -R); fi

build() { cmake --preset "$1" >"build/$1-configure.log" 2>&1 || { cat "build/$1-configure.log"; return 1; }
          cmake --build --preset "$1" -j "$jobs" "${@:2}"; }
check() { "${@:2}" ctest --preset "$1" -j "$jobs" --output-on-failure --no-tests=error; }

root=$PWD
. bindings/deps/env.sh

skip() {  # the status of a stage that cannot be had, and why
  printf 'SKIPPED: %s\n' "$1"
  printf '%s\n' "$1" > build/skipped
  [ "${KVGEAR_REQUIRE_ALL:-0}" != 1 ] && return 77
  echo 'KVGEAR_REQUIRE_ALL=1: that is a failure'
  return 1
}

# with TOOLS -- COMMAND...: runs a command that needs toolchains (see bindings/deps), which are installed first. Status 77: skipped.
with() {
  local tool tools=() reasons=''
  while [ "$1" != -- ]; do tools+=("$1"); shift; done
  shift
  for tool in "${tools[@]}"; do
    if [ -n "$(missing "$tool")" ] && [ "${KVGEAR_SKIP_SETUP:-0}" != 1 ]; then bindings/deps/install.sh "$tool" || true; . bindings/deps/env.sh; hash -r; fi
    reasons+=$(missing "$tool" | sed 's/$/. /')
  done
  if [ -z "$reasons" ]; then "$@"; return; fi
  skip "$reasons"
}
binding() { KVGEAR_BUILD_DIR=$root/build/dev KVGEAR_TSAN_BUILD_DIR=$root/build/tsan "bindings/$1/test.sh"; }
service() { KVGEAR_BUILD_DIR=$root/build/dev "examples/$1/test.sh"; }

# The CUDA plugin and the programs of tests/gpu, for one kind of GPU: whether they compile, and what can be tested without a
# device. tests/gpu/run.sh is for machines that have one.
cuda_build() {
  local deps=${KVGEAR_DEPS_DIR:-.deps}
  if [ "${KVGEAR_SKIP_SETUP:-0}" != 1 ]; then core/deps/cuda.sh || true; fi
  local nvcc found=''
  for nvcc in "$(command -v nvcc || true)" "${CUDA_HOME:-/nonexistent}/bin/nvcc" "$deps/cuda/bin/nvcc" /usr/local/cuda/bin/nvcc; do
    if [ -n "$nvcc" ] && [ -x "$nvcc" ]; then found=$nvcc; fi
  done
  if [ -z "$found" ]; then  # also where all is required: not every machine can have it
    KVGEAR_REQUIRE_ALL=0 skip 'nvcc of CUDA 12.4 or newer is neither there nor to be fetched. '
    return
  fi
  cmake --preset release -DKVGEAR_CUDA=ON -DKVGEAR_CUDA_ARCHITECTURES=90-real >build/cuda-configure.log 2>&1 ||
    { cat build/cuda-configure.log; return 1; }
  cmake --build --preset release -j "$jobs" --target kvgear_cuda tests/gpu/all test_plugin_stand_in &&
    ctest --preset release -L gpu -j "$jobs" --output-on-failure --no-tests=error
}

# All services that can be had; what fails does not keep the others from being tested.
services() {
  local language status worst=0
  for language in go rust java; do
    status=0
    with go "$language" -- service "$language" || status=$?
    if [ $status != 0 ] && { [ $worst = 0 ] || [ $worst = 77 ]; }; then worst=$status; fi
  done
  return $worst
}

run_stage() {
  case $1 in
    setup) core/deps/install.sh ;;
    dev-build) build dev ;;
    dev-test) check dev ;;
    asan-ubsan-build) build asan-ubsan ;;
    asan-ubsan-test) check asan-ubsan ;;
    tsan-build) build tsan --target tests/thread/all ;;  # tests labelled "thread" live in tests/thread
    tsan-test) check tsan "${no_aslr[@]}" ;;
    coverage-build) build coverage && find build/coverage -name '*.gcda' -delete ;;  # only this run counts
    coverage-test) check coverage ;;
    coverage) tests/coverage.sh build/coverage ;;
    tidy) tests/tidy.sh build/dev ;;
    valgrind) tests/valgrind.sh build/dev ;;
    abi-baseline) tests/abi/baseline.sh check build/dev ;;
    install-check) tests/install/check.sh build/dev ;;
    bindings-check) with swig go -- bindings/regenerate.sh --check ;;
    go|rust|java) with "$1" -- binding "$1" ;;
    services) services ;;
    cuda-build) cuda_build ;;
    *) echo "tests/run.sh: there is no stage '$1'" >&2; return 1 ;;
  esac
}

clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

mkdir -p build
declare -A result
passed=0; failed=0; n=0
for stage in "${stages[@]}"; do
  n=$((n + 1))
  case $stage in
    *-test)  # nothing to test where the build failed; if it is dev's, the loop ends
      needs=${stage%-test}-build
      if [ "${result[$needs]:-}" != "" ] && [[ ${result[$needs]} != passed* ]]; then
        result[$stage]='not run'; continue
      fi ;;
  esac
  printf '\n=== stage %d of %d: %s (%s since the start) ===\n' "$n" "${#stages[@]}" "$stage" "$(clock $SECONDS)"
  start=$SECONDS
  status=0
  run_stage "$stage" || status=$?
  if [ $status = 0 ]; then
    result[$stage]="passed  $(clock $((SECONDS - start)))"; passed=$((passed + 1))
  elif [ $status = 77 ]; then
    result[$stage]="SKIPPED $(clock $((SECONDS - start)))  $(cat build/skipped)"
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
