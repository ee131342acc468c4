#!/usr/bin/env bash
# Builds and runs everything that needs a CUDA device: the tests, the same under the tools of compute-sanitizer, the demo
# beside the CPU, and speeds; writes a summary to tests/gpu/results/ that names the GPU, driver, date and commit. Without a
# device it says 'skipped: no CUDA device' and changes nothing.
#
#   tests/gpu/run.sh [--no-build] [PART]...   parts: tests, sanitizers, demo, seal, attend, decode; all of them if none is named
#
# --no-build   the programs are in $KVGEAR_BUILD (default build/release) already
# KVGEAR_RESULTS   where the summary goes; KVGEAR_DECODE  arguments of kvgear-decode-bench, runs separated by ";"
# KVGEAR_SANITIZER_LIMIT   seconds that each run of a sanitizer may take (1200)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=$(realpath -m "${KVGEAR_BUILD:-build/release}")
results=${KVGEAR_RESULTS:-tests/gpu/results}
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1 || true)
if [ -z "$gpu" ]; then
  echo "skipped: no CUDA device"
  exit 0
fi
if [ "${1:-}" = --no-build ]; then
  shift
else
  core/deps/install.sh
  core/deps/cuda.sh --cublas
  cmake --preset release -DKVGEAR_CUDA=ON
  cmake --build "$build" --target kvgear_cuda tests/gpu/all kvgear-bench kvgear-demo
fi
parts=" ${*:-tests sanitizers demo seal attend decode} "
export KVGEAR_PLUGIN_PATH=${KVGEAR_PLUGIN_PATH:-$build/capi}
tests=$build/tests/gpu

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=$work/summary
failed=0
{
  echo "GPU, driver: $gpu"
  echo "date: $(date -u +%Y-%m-%d)"
  echo "commit: ${KVGEAR_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || echo unknown)}"
} > "$out"

wanted() { case $parts in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

# Programs that run side by side, then the last lines of each, in the order in which they were started.
names=(); logs=(); pids=()
start() {  # name, then the command
  local log=$work/log${#names[@]}
  names+=("$1"); logs+=("$log")
  shift
  "$@" > "$log" 2>&1 &
  pids+=($!)
}
finish() {
  local i rc
  for i in "${!names[@]}"; do
    rc=0
    wait "${pids[$i]}" || rc=$?
    # There is a device here: what finds none is broken.
    if grep -q 'skipped: no CUDA device' "${logs[$i]}"; then rc=77; fi
    printf '\n%s: %s\n' "${names[$i]}" "$([ $rc = 0 ] && echo passed || echo "FAILED ($rc)")" >> "$out"
    grep -E '^\[  (PASSED|FAILED|SKIPPED) |tests ran|ERROR SUMMARY|RACECHECK SUMMARY' "${logs[$i]}" | sort -u | head -n 20 >> "$out" || true
    if [ $rc != 0 ]; then
      failed=1
      printf '%s:\n' "${names[$i]}"
      grep -v '^\[ RUN\|^\[       OK' "${logs[$i]}" | cut -c1-300 | head -n 40
    fi
  done
  names=(); logs=(); pids=()
}

if wanted tests; then
  for test in attend seal cache saved cuda; do start "${test}_test" "$tests/${test}_test"; done
  finish
fi

if wanted sanitizers; then
  if command -v compute-sanitizer >/dev/null; then
    # Every kernel; where a tool slows them down by a thousand times, on the shortest inputs that reach all of it.
    seal='*Lengths/gear_2:*Lengths/kivi_2:*Lengths/kcvt_4:*Lengths/int4:*Lengths/int2_rot'
    cache='Device.Elements*:*ABatchGives*/gear_2:*ABatchGives*/kivi_4:*ABatchGives*/int8:*ABatch*/fp16'
    attend='Attend.EdgesOfPiecesDiffer:Attend.TokensCutOffAPage:Attend.FullSparsePart'
    for tool in memcheck initcheck synccheck racecheck; do
      check() { start "$tool $1" timeout "${KVGEAR_SANITIZER_LIMIT:-1200}" compute-sanitizer --tool $tool --error-exitcode 9 "${@:2}"; }
      check seal_test "$tests/seal_test" --gtest_filter="$seal"
      check cache_test "$tests/cache_test" --gtest_filter="$cache"
      check attend_test "$tests/attend_test" --gtest_filter="$attend"
    done
    start 'memcheck cuda_test' timeout "${KVGEAR_SANITIZER_LIMIT:-1200}" compute-sanitizer --tool memcheck --error-exitcode 9 "$tests/cuda_test" --gtest_filter='Graphs.*:Streams.*'
    finish
  else
    printf '\ncompute-sanitizer: not on PATH, not run\n' >> "$out"
  fi
fi

if wanted demo; then
  for device in cpu cuda; do
    start "demo on $device" "$build/kvgear-demo" --device $device --model examples/models/tiny --exams examples/data/exams.jsonl \
      --text examples/data/text.txt --max-items 4 --recipes "${KVGEAR_RECIPES:-int4,kivi-4,kivi-2,gear-4,gear-2,gear-l-2}" \
      --json "$work/$device.json"
  done
  finish
  python3 - "$work/cpu.json" "$work/cuda.json" >> "$out" <<'PYTHON' || failed=1
import json, sys
cpu, cuda = ({r["recipe"]: r for r in json.load(open(name))} for name in sys.argv[1:])
print("\nexams of the demo right, CPU and CUDA; divergence from fp16 on the CPU")
same = True
for name, here in cpu.items():
    there = cuda[name]
    equal = here["exams"] == there["exams"]
    same = same and equal
    mean = lambda r: sum(r["exams"].values()) / len(r["exams"])
    print(f"{name:9} {mean(here):.3f} {mean(there):.3f} {'same in every kind' if equal else 'DIFFERENT'}; KL {here['kl_mean']:.2e} {there['kl_mean']:.2e}")
sys.exit(0 if same else 1)
PYTHON
fi

if wanted seal; then
  if "$build/kvgear-bench" --device cuda --benchmark_filter='append|copy' > "$work/bench" 2>&1; then
    sed -n '/^On the device/,$p' "$work/bench" | { echo; cat; } >> "$out"
  else
    failed=1
    tail -n 20 "$work/bench"
  fi
fi

if wanted attend; then
  echo >> "$out"
  "$tests/attend_bench" "$work/attend.json" 2>&1 | tee -a "$out" || failed=1
  if python3 tests/gpu/sdpa_bench.py "$work/sdpa.json" > "$work/sdpa" 2>&1; then
    { printf '\nPyTorch:\n'; cat "$work/sdpa"; } >> "$out"
  else
    printf '\nsdpa_bench.py: no PyTorch here\n' >> "$out"
  fi
fi

if wanted decode; then
  if [ -x "$build/kvgear-decode-bench" ]; then
    IFS=';' read -ra runs <<< "${KVGEAR_DECODE:---model llama2-7b;--model llama3-8b;--model llama2-7b --memory-budget 0;--model llama3-8b --memory-budget 0 --prompt 32000}"
    for run in "${runs[@]}"; do
      # shellcheck disable=SC2086  # words
      echo >> "$out"
      "$build/kvgear-decode-bench" $run 2>&1 | tee -a "$out" || failed=1
    done
  else
    printf '\nkvgear-decode-bench: not built, for cuBLAS was not found\n' >> "$out"
  fi
fi

name=$(echo "$gpu" | cut -d, -f1 | tr -cs 'A-Za-z0-9' '-' | sed 's/-$//' | tr 'A-Z' 'a-z')
mkdir -p "$results"
cp "$out" "$results/$name.txt"
chmod 644 "$results/$name.txt"
cat "$out"
exit $failed
