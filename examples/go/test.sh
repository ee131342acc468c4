#!/usr/bin/env bash
# Tests of the Go service: its own, the same bytes as the C++ demo, a load test, and draining at SIGTERM.
#   examples/go/test.sh      KVGEAR_BUILD_DIR names the build folder (build/dev); KVGEAR_LOAD the number of requests (10000)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
. "$root/bindings/go/env.sh"
cd "$here"
step() { printf -- '--- go service: %s\n' "$*"; }

step gofmt, vet
badly=$(gofmt -l .)
[ -z "$badly" ] || { printf 'not formatted:\n%s\n' "$badly" >&2; exit 1; }
go vet ./...
step test
go test -count=1 -race ./...
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
go build -o "$work/service" .
go build -o "$work/loadtest" ./loadtest
model=$root/examples/models/tiny

demo=$(find "$build" -maxdepth 3 -name kvgear-demo -perm -u+x ! -type d | head -1)
if [ -n "$demo" ]; then
  step 'the bytes of the C++ demo'
  for recipe in fp16 int8 gear-4 gear-2 kivi-2; do
    for prompt in 'The cache keeps' '### memory' 'A key and a value are '; do
      "$demo" --model "$model" --recipes $recipe --max-tokens 120 --prompt "$prompt" 2>/dev/null > "$work/want"
      { printf %s "$prompt"; "$work/service" -model "$model" -recipe $recipe -max-tokens 120 -prompt "$prompt"; echo; } > "$work/got"
      cmp "$work/want" "$work/got" || { echo "$recipe, '$prompt': other bytes" >&2; cat "$work/want" "$work/got" >&2; exit 1; }
    done
  done
else
  echo "SKIPPED: no kvgear-demo in $build; build the target kvgear-demo to compare with it" >&2
  [ "${CI:-}" != true ] || exit 1
fi

step 'load'
"$work/service" -model "$model" -listen 127.0.0.1:0 > "$work/out" 2> "$work/err" &
server=$!
for _ in $(seq 100); do grep -q listening "$work/out" && break; sleep 0.1; done
url=$(sed -n 's/^listening on //p' "$work/out")
"$work/loadtest" -url "$url" -requests "${KVGEAR_LOAD:-10000}" -conversations 64 -pid $server

step 'SIGTERM drains'
curl -sN "$url/v1/completions" -d '{"prompt": "The last words are ", "max_tokens": 200, "stream": true}' > "$work/stream" &
client=$!
for _ in $(seq 100); do [ -s "$work/stream" ] && break; sleep 0.1; done
kill -TERM $server
wait $client
wait $server
server=
grep -q 'data: \[DONE\]' "$work/stream" && grep -q drained "$work/err" || { cat "$work/err" >&2; exit 1; }
echo '--- go service: all passed'
