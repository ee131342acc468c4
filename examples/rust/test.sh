#!/usr/bin/env bash
# Tests of the Rust service: its own, and those that all services share (../check_service.sh).
#   examples/rust/test.sh      KVGEAR_BUILD_DIR names the build folder (build/dev); KVGEAR_LOAD the number of requests (10000)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
. "$root/bindings/deps/env.sh"
KVGEAR_LIB_DIR=$(cd "${KVGEAR_BUILD_DIR:-$root/build/dev}/capi" && pwd)
export KVGEAR_LIB_DIR CARGO_TERM_COLOR=never
cd "$here"
step() { printf -- '--- rust service: %s\n' "$*"; }

step 'format, clippy'
cargo fmt --check
cargo clippy --locked --quiet --release --all-targets -- -D warnings
step test
cargo test --locked --quiet --release
cargo build --locked --quiet --release
"$root/examples/check_service.sh" rust "${CARGO_TARGET_DIR:-$here/target}/release/kvgear-service"
