#!/usr/bin/env bash
# From a clone to a running service: installs what is missing, builds libkvgear and the service, and starts it.
#   examples/go/run.sh [flags of the service]      -listen 127.0.0.1:8080 is the default; -help lists them
# KVGEAR_BUILD_DIR names a build folder with libkvgear.so to use instead; KVGEAR_SKIP_SETUP=1 installs nothing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if [ -z "${KVGEAR_BUILD_DIR:-}" ]; then
  KVGEAR_BUILD_DIR=$root/build/examples-go
  if [ "${KVGEAR_SKIP_SETUP:-0}" != 1 ]; then
    "$root/core/deps/install.sh" >&2
    if ! command -v go >/dev/null; then
      apt-get install -y golang-go >&2 || true
      command -v go >/dev/null || { echo "run.sh: there is no Go here, and none to be installed: 1.21 or newer is needed" >&2; exit 1; }
    fi
  fi
  (cd "$root" && cmake --preset release -B "$KVGEAR_BUILD_DIR" -DKVGEAR_BUILD_TESTS=OFF -DKVGEAR_BUILD_BENCH=OFF &&
    cmake --build "$KVGEAR_BUILD_DIR" --target kvgear -j "$(nproc)") >&2
fi
. "$root/bindings/go/env.sh"
cd "$here"
go build -o "$build/kvgear-service-go" .
exec "$build/kvgear-service-go" -model "$root/examples/models/tiny" "$@"
