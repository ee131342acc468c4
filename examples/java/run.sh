#!/usr/bin/env bash
# From a clone to a running service: installs what is missing, builds libkvgear, its package for Java and the service, and starts it.
#   examples/java/run.sh [flags of the service]      -listen 127.0.0.1:8080 is the default; -help lists them
# KVGEAR_BUILD_DIR names a build folder with libkvgear.so to use instead; KVGEAR_SKIP_SETUP=1 installs nothing; JAVA_OPTS goes to Java.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if [ "${KVGEAR_SKIP_SETUP:-0}" != 1 ]; then
  [ -n "${KVGEAR_BUILD_DIR:-}" ] || "$root/core/deps/install.sh" >&2
  "$root/bindings/deps/install.sh" java >&2
fi
if [ -z "${KVGEAR_BUILD_DIR:-}" ]; then
  KVGEAR_BUILD_DIR=$root/build/examples-java
  (cd "$root" && cmake --preset release -B "$KVGEAR_BUILD_DIR" -DKVGEAR_BUILD_TESTS=OFF -DKVGEAR_BUILD_BENCH=OFF &&
    cmake --build "$KVGEAR_BUILD_DIR" --target kvgear -j "$(nproc)") >&2
fi
. "$here/env.sh"
service_maven package -DskipTests >&2
exec "${service[@]}" -model "$root/examples/models/tiny" "$@"
