#!/usr/bin/env bash
# What is asked of every service, whatever its language: the bytes of the C++ demo, the shape of its answers and refusals, many conversations
# at once, and draining at SIGTERM.
#   examples/check_service.sh NAME COMMAND...     COMMAND starts the service; flags are added, such as --listen 127.0.0.1:0
# KVGEAR_BUILD_DIR names the build folder (build/dev) with kvgear-demo, KVGEAR_LOAD the number of requests (10000). Needs Go, for the
# program that asks, go/loadtest.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
name=$1; shift
build=$(cd "${KVGEAR_BUILD_DIR:-$root/build/dev}" && pwd)
model=$here/models/tiny
. "$root/bindings/deps/env.sh"
step() { printf -- '--- %s service: %s\n' "$name" "$*"; }
fail() { printf '%s service: %s\n' "$name" "$*" >&2; exit 1; }

demo=$(find "$build" -maxdepth 3 -name kvgear-demo -perm -u+x ! -type d | head -1)
[ -n "$demo" ] || fail "there is no kvgear-demo in $build; build that target"
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
(cd "$here/go" && CGO_ENABLED=0 GOTOOLCHAIN=local GOPROXY=off go build -o "$work/loadtest" ./loadtest)

start() {  # COMMAND...: starts a service; sets server and url
  : > "$work/out"
  "$@" --model "$model" --listen 127.0.0.1:0 > "$work/out" 2> "$work/err" &
  server=$!
  for _ in $(seq 300); do
    grep -q listening "$work/out" && break
    kill -0 "$server" 2>/dev/null || { cat "$work/err" >&2; fail 'it ends at once'; }
    sleep 0.1
  done
  url=$(sed -n 's/^listening on //p' "$work/out")
  [ -n "$url" ] || { cat "$work/err" >&2; fail 'it does not listen after 30 s'; }
}
stop() {
  kill -TERM "$server"
  wait "$server" || { cat "$work/err" >&2; fail "it ends with status $? at SIGTERM"; }
  server=
}

step 'the bytes of the C++ demo'
for recipe in fp16 gear-4 kivi-2; do
  prompt='A key and a value are '
  "$demo" --model "$model" --recipes $recipe --max-tokens 120 --prompt "$prompt" 2> /dev/null > "$work/want"
  { printf %s "$prompt"; "$@" --model "$model" --recipe $recipe --max-tokens 120 --prompt "$prompt"; echo; } > "$work/got"
  cmp "$work/want" "$work/got" || { cat "$work/want" "$work/got" >&2; fail "other bytes with $recipe"; }
done

step 'limits'
start "$@" --max-caches 1 --max-tokens 64 --memory-budget 4000000
"$work/loadtest" -url "$url" -limits
stop

step 'slow clients'
start "$@" --client-timeout 2
"$work/loadtest" -url "$url" -slow 2
stop

step "answers over HTTP, ${KVGEAR_LOAD:-10000} requests"
start "$@"
"$work/loadtest" -url "$url" -surface -demo "$demo" -model "$model" -requests "${KVGEAR_LOAD:-10000}" -conversations 64 -pid "$server"

step 'SIGTERM drains'
curl -sN "$url/v1/completions" -d '{"prompt": "The last words are ", "max_tokens": 200, "stream": true}' > "$work/stream" &
client=$!
for _ in $(seq 100); do [ -s "$work/stream" ] && break; sleep 0.1; done
stop
wait $client
grep -q 'data: \[DONE\]' "$work/stream" && grep -q drained "$work/err" || { cat "$work/err" >&2; fail 'an answer was cut off'; }
step 'all passed'
