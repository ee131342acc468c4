#!/usr/bin/env bash
# Builds and runs everything that needs a CUDA device: the tests, the same under compute-sanitizer, and the speed of
# sealing; writes a summary to tests/gpu/results/. Without a device it says 'skipped: no CUDA device' and changes nothing.
#
#   tests/gpu/run.sh [--no-build]     --no-build: the programs are in $KVGEAR_BUILD (default build/release) already
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=${KVGEAR_BUILD:-build/release}
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1 || true)
if [ -z "$gpu" ]; then
  echo "skipped: no CUDA device"
  exit 0
fi
if [ "${1:-}" != --no-build ]; then
  core/deps/install.sh
  core/deps/cuda.sh
  cmake --preset release -DKVGEAR_CUDA=ON
  cmake --build "$build" --target kvgear_cuda gpu_seal_test gpu_cache_test kvgear-bench
fi
export KVGEAR_PLUGIN_PATH=${KVGEAR_PLUGIN_PATH:-$PWD/$build/capi}

out=$(mktemp)
trap 'rm -f "$out"' EXIT
failed=0
{
  echo "GPU, driver: $gpu"
  echo "date: $(date -u +%Y-%m-%d)"
  echo "commit: ${KVGEAR_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || echo unknown)}"
} > "$out"
run() {  # name, then the command; its last lines go to the summary
  local name=$1 log rc=0
  shift
  log=$(mktemp)
  "$@" > "$log" 2>&1 || rc=$?
  printf '\n%s: %s\n' "$name" "$([ $rc = 0 ] && echo passed || echo "FAILED ($rc)")" >> "$out"
  grep -E '^\[  (PASSED|FAILED|SKIPPED) |tests ran|ERROR SUMMARY|RACECHECK SUMMARY' "$log" | sort -u | head -n 20 >> "$out" || true
  if [ $rc != 0 ]; then
    failed=1
    tail -n 60 "$log"
  fi
  rm -f "$log"
}
tests=$build/tests/gpu
run "seal_test" "$tests/seal_test"
run "cache_test" "$tests/cache_test"
if command -v compute-sanitizer >/dev/null; then
  few='*Lengths/gear_2:*Lengths/kivi_2:*Lengths/kcvt_4:*Lengths/int4:*HeadSizes/gear_4'
  some='Device.Elements*:*Batch*/gear_2:*Batch*/kivi_4:*HoldsAndAnswers*/gear_4'
  for tool in memcheck racecheck initcheck synccheck; do
    run "$tool seal_test" compute-sanitizer --tool $tool --error-exitcode 9 "$tests/seal_test" --gtest_filter="$few"
    run "$tool cache_test" compute-sanitizer --tool $tool --error-exitcode 9 "$tests/cache_test" --gtest_filter="$some"
  done
else
  printf '\ncompute-sanitizer: not on PATH, not run\n' >> "$out"
fi
bench=$(mktemp)
if "$build/kvgear-bench" --device cuda --benchmark_filter='append|copy' > "$bench" 2>&1; then
  sed -n '/^On the device/,$p' "$bench" | { echo; cat; } >> "$out"
else
  failed=1
  tail -n 20 "$bench"
fi
rm -f "$bench"

name=$(echo "$gpu" | cut -d, -f1 | tr -cs 'A-Za-z0-9' '-' | sed 's/-$//' | tr 'A-Z' 'a-z')
mkdir -p tests/gpu/results
cp "$out" "tests/gpu/results/$name.txt"
chmod 644 "tests/gpu/results/$name.txt"
cat "$out"
exit $failed
