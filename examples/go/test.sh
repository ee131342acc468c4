#!/usr/bin/env bash
# Tests of the Go service: its own, and those that all services share (../check_service.sh).
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
trap 'rm -rf "$work"' EXIT
go build -o "$work/service" .
"$root/examples/check_service.sh" go "$work/service"
