#!/usr/bin/env bash
# Everything that is tested of the Rust bindings. Exits non-zero if anything failed.
#   bindings/rust/test.sh        KVGEAR_BUILD_DIR: where libkvgear.so was built, default build/dev;
#                                KVGEAR_TSAN_BUILD_DIR: where it was built by the preset tsan, default build/tsan;
#                                KVGEAR_LEAK_CYCLES: how many handles the leak test makes and ends, default a million
# What cannot be had on a machine (SWIG, rustfmt, clippy, Rust 1.75, Miri, TSan, pkg-config) is skipped, and the last lines say so.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
build=${KVGEAR_BUILD_DIR:-$root/build/dev}
[ -e "$build/capi/libkvgear.so" ] || { echo "test.sh: there is no capi/libkvgear.so in $build" >&2; exit 1; }
build=$(cd "$build" && pwd)
cd "$here"
. "$root/bindings/deps/env.sh"
export KVGEAR_LIB_DIR=$build/capi KVGEAR_LIBRARY=$build/capi/libkvgear.so
export LD_LIBRARY_PATH=$build/capi${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}  # programs of rustdoc get no rpath
export PYTHONDONTWRITEBYTECODE=1 CARGO_TERM_COLOR=never RUST_BACKTRACE=0
target=${CARGO_TARGET_DIR:-$here/target}
msrv=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml).0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

passed=0; failed=(); skipped=()
step() {  # NAME COMMAND...: shows what a step printed if it failed, and how many tests ran
  local name=$1; shift
  if "$@" >"$work/log" 2>&1; then
    passed=$((passed + 1))
    echo "ok       $name$(awk '/^test result: ok/ { n += $4 } END { if (n) printf " (%d tests)", n }' "$work/log")"
  else
    failed+=("$name"); echo "FAILED   $name"; cat "$work/log"
  fi
}
skip() { skipped+=("$1: $2"); echo "SKIPPED  $1: $2"; }

generated() {
  ../swig/rust/regenerate.sh "$work/crates"
  local file
  while read -r file; do diff -u "$file" "$work/crates/$file"; done < <(cd "$work/crates" && find . -type f)
}

# Both crates build from their packages alone, with the library that pkg-config knows.
packages() {
  local home=${CARGO_HOME:-$HOME/.cargo} file
  rm -rf "$target/package"
  # Cargo keeps what it has unpacked of a version, and would take the kvgear-sys of an earlier run: it gets a place of its own for that.
  mkdir -p "$work/cargo/registry" "$home/registry/index" "$home/registry/cache"
  ln -s "$home/registry/index" "$home/registry/cache" "$work/cargo/registry/"
  for file in "$home"/config*; do [ ! -e "$file" ] || ln -s "$file" "$work/cargo/"; done
  env -u KVGEAR_LIB_DIR CARGO_HOME="$work/cargo" PKG_CONFIG_PATH="$work/pkgconfig" cargo package --workspace --allow-dirty
}
without_library() {  # says what to do where there is no library
  cd "$target"/package/kvgear-sys-*/
  if env -u KVGEAR_LIB_DIR PKG_CONFIG_LIBDIR=/nowhere PKG_CONFIG_PATH= CARGO_TARGET_DIR="$work/without" \
       cargo build 2>"$work/said"; then
    echo "built without a library"; return 1
  fi
  grep 'Install kvgear so that pkg-config knows it, or set KVGEAR_LIB_DIR' "$work/said" || { cat "$work/said"; return 1; }
}

# The tests of threads, with TSan in Rust's std, the crates and the library. There must be one TSan in a process: that of rustc,
# which speaks the same language as gcc's. An empty library takes the place of gcc's, which the library asks for.
tsan=${KVGEAR_TSAN_BUILD_DIR:-$root/build/tsan}/capi
with_tsan() {
  local host program no_aslr=()
  host=$(rustc +nightly -vV | sed -n 's/^host: //p')
  program=$(KVGEAR_LIB_DIR=$tsan RUSTFLAGS='-Zsanitizer=thread -Clink-arg=-Wl,--export-dynamic' cargo +nightly test -Zbuild-std --target "$host" \
    --locked --target-dir "$target/tsan" -p kvgear --test threads --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*threads[^"]*\)".*/\1/p') || return 1
  mkdir "$work/empty"
  needed=$(readelf -d "$tsan/libkvgear.so" | sed -n 's/.*(NEEDED).*\[\(libtsan[^]]*\)\].*/\1/p')
  "${CC:-cc}" -shared -x c /dev/null -o "$work/empty/$needed" -Wl,-soname,"$needed" || return 1
  if setarch "$(uname -m)" -R true 2>/dev/null; then no_aslr=(setarch "$(uname -m)" -R); fi
  LD_LIBRARY_PATH=$work/empty TSAN_OPTIONS=halt_on_error=1 "${no_aslr[@]}" "$program"
}

step 'generator' python3 -m unittest discover -s ../swig/rust/tests
if command -v "${SWIG:-swig}" >/dev/null; then step 'generated files are those of the header' generated
else skip 'generated files are those of the header' 'SWIG is not installed (apt-get install swig)'; fi
if cargo fmt --version >/dev/null 2>&1; then step 'format' cargo fmt --check
else skip 'format' 'rustfmt is not installed'; fi
if cargo clippy --version >/dev/null 2>&1; then
  step 'clippy, linked' cargo clippy --locked --all-targets -- -D warnings
  step 'clippy, dlopen and half' cargo clippy --locked --all-targets --features kvgear/dlopen,half -- -D warnings
else skip 'clippy' 'it is not installed'; fi
step 'tests, linked' cargo test --locked --no-fail-fast --features half
step 'tests, dlopen' cargo test --locked --no-fail-fast --features kvgear/dlopen,half
step 'a million handles, at steady memory' env KVGEAR_LEAK_CYCLES="${KVGEAR_LEAK_CYCLES:-1000000}" cargo test --locked -p kvgear --test leak
step 'documentation' env RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --features half
step 'documentation, dlopen' env RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --features half,kvgear/dlopen

if cargo "+$msrv" --version >/dev/null 2>&1 ||
   rustup toolchain install "$msrv" --profile minimal >/dev/null 2>&1; then
  step "tests with Rust $msrv" cargo "+$msrv" test --locked --target-dir "$target/msrv" --features half \
    --lib --test abi --test api --test saved --test selection --test threads
  step "check with Rust $msrv, dlopen" cargo "+$msrv" check --locked --target-dir "$target/msrv" --features kvgear/dlopen
else skip "tests with Rust $msrv" 'that toolchain cannot be installed'; fi

if cargo +nightly miri --version >/dev/null 2>&1 ||
   rustup component add --toolchain nightly miri rust-src >/dev/null 2>&1; then
  step 'Miri on the pure parts' env MIRIFLAGS=-Zmiri-strict-provenance \
    cargo +nightly miri test --locked --target-dir "$target/miri" --features half --lib
else skip 'Miri on the pure parts' 'a nightly toolchain with Miri cannot be installed'; fi

if [ ! -e "$tsan/libkvgear.so" ]; then skip 'threads, with TSan' "there is no $tsan/libkvgear.so (preset tsan, target kvgear)"
elif [ -d "$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/src" ] ||
     rustup component add --toolchain nightly rust-src >/dev/null 2>&1; then
  step 'threads, with TSan in Rust and in the library' with_tsan
else skip 'threads, with TSan' 'a nightly toolchain with the sources of std cannot be installed'; fi

if command -v pkg-config >/dev/null; then
  mkdir "$work/pkgconfig"
  printf 'Name: kvgear\nDescription: kvgear\nVersion: %s\nLibs: -L%s -lkvgear\nCflags: -I%s\n' \
    0.1.0 "$build/capi" "$root/capi/include" >"$work/pkgconfig/kvgear.pc"
  step 'packages' packages
  step 'without a library' without_library
else skip 'packages' 'pkg-config is not installed (apt-get install pkg-config)'; fi

echo
for what in "${skipped[@]}"; do echo "skipped: $what"; done
for what in "${failed[@]}"; do echo "failed: $what"; done
echo "rust bindings: $passed passed, ${#failed[@]} failed, ${#skipped[@]} skipped"
[ ${#failed[@]} = 0 ]
