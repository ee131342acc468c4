#!/usr/bin/env bash
# Tests of the Java service: its own, and those that all services share (../check_service.sh).
#   examples/java/test.sh      KVGEAR_BUILD_DIR names the build folder (build/dev); KVGEAR_LOAD the number of requests (10000)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
. "$root/bindings/deps/env.sh"
. "$here/env.sh"
step() { printf -- '--- java service: %s\n' "$*"; }

step 'package and tests, among them the bytes of the demo and of the service in Go'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
KVGEAR_DEMO=$(find "$build" -maxdepth 3 -name kvgear-demo -perm -u+x ! -type d | head -1)
[ -n "$KVGEAR_DEMO" ] || { echo "there is no kvgear-demo in $build; build that target" >&2; exit 1; }
KVGEAR_GO_SERVICE=$work/go-service
(. "$root/bindings/go/env.sh"; cd "$root/examples/go" && go build -o "$KVGEAR_GO_SERVICE" .)
export KVGEAR_DEMO KVGEAR_GO_SERVICE
service_maven clean package "-Dkvgear.test.args=$library"
grep -ho 'tests="[0-9]*"\|skipped="[0-9]*"' "$here"/target/surefire-reports/TEST-*.xml | tr -dc 'a-z0-9\n' |
  awk '{ kind = $0; sub(/[0-9]*$/, "", kind); n[kind] += substr($0, length(kind) + 1) }
       END { print n["tests"] " tests passed, " n["skipped"] + 0 " of them skipped"; exit n["tests"] == 0 || n["skipped"] > 0 }'

step 'wrong arguments'
if "${service[@]}" -parallel 0 2> "$work/err"; then exit 1; fi
grep -q 'kvgear-service: -parallel is 0' "$work/err"

"$root/examples/check_service.sh" java "${service[@]}"
