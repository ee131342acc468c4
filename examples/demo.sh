#!/usr/bin/env bash
# From a clone to a result: installs what is missing, builds the demo, and runs it.
#
#   examples/demo.sh                      all named recipes on the exams and the text of examples/data
#   examples/demo.sh --recipes a,b,c      any flag of kvgear-demo; what is not given keeps its default
#   examples/demo.sh --prompt "### memory"
#   examples/demo.sh --help
#
# The table goes to stdout, results.json, results.svg and results.png to build/demo/.
# KVGEAR_SKIP_SETUP=1 leaves the set-up out.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
out=$root/build/demo

step() {  # runs a command; its output is shown only if it fails
  local words=$1 log=$out/$2.log
  shift 2
  printf 'demo: %s\n' "$words" >&2
  if ! "$@" >"$log" 2>&1; then
    cat "$log" >&2
    printf 'demo: this failed: %s\n' "$words" >&2
    exit 1
  fi
}

mkdir -p "$out"
if [ "${KVGEAR_SKIP_SETUP:-0}" != 1 ]; then
  step 'installing what is missing' setup "$root/core/deps/install.sh"
fi
# Only what the demo needs, in a folder of its own; at most one job for each GiB of memory.
jobs=$(nproc)
memory=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo 2>/dev/null || echo "$jobs")
if [ "${memory:-0}" -lt "$jobs" ]; then jobs=$((memory > 0 ? memory : 1)); fi
cd "$root"
step 'configuring' configure cmake --preset release -B "$out" -DKVGEAR_BUILD_TESTS=OFF -DKVGEAR_BUILD_BENCH=OFF
step 'building (the first time takes some minutes)' build cmake --build "$out" --target kvgear-demo kvgear-plan -j "$jobs"
cd - >/dev/null

# Defaults for what the arguments leave open.
given() {
  local flag
  for flag in "$@"; do
    case " $flags " in *" $flag "*) return 0 ;; esac
  done
  return 1
}
flags=''
for argument in "$@"; do
  case $argument in --*) flags+=" ${argument%%=*}" ;; esac
done
defaults=()
given --model || defaults+=(--model "$here/models/tiny")
if ! given --prompt --prompt-ids --help; then
  given --exams --text || defaults+=(--exams "$here/data/exams.jsonl" --text "$here/data/text.txt")
  given --json || defaults+=(--json "$out/results.json")
  given --plot || defaults+=(--plot "$out/results")
  # Latents need factors of the model, which take some seconds to find.
  if ! given --recipes --also --model --device; then
    latent() { "$out/kvgear-plan" latent --model="$here/models/tiny" --calibrate="$here/data/text.txt,$here/data/exams.jsonl" --max_items=1 "$@"; }
    step 'finding subspaces of the model' palu latent --ratio=0.5 --out="$out/palu.safetensors"
    step 'the same by condition numbers' lorc latent --allocate=lorc --out="$out/lorc.safetensors"
    defaults+=(--also "palu-3@$out/palu.safetensors,lorc@$out/lorc.safetensors")
  fi
fi
exec "$out/kvgear-demo" ${defaults[@]+"${defaults[@]}"} "$@"
