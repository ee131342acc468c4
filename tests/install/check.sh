#!/usr/bin/env bash
# Is what we install usable by someone who has only that? Installs a finished build to a temporary prefix, builds a small C
# program against it by pkg-config and by CMake, runs both, and looks at what the library needs and what it exports.
#   tests/install/check.sh <build folder>
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=${1:?usage: tests/install/check.sh <build folder>}
cc=${CC:-cc}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
fail() { printf 'install check: FAILED: %s\n' "$*" >&2; exit 1; }
ok() { printf 'install check: %s\n' "$*"; }

cmake --install "$build" --prefix "$tmp/prefix" >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; fail "cmake --install"; }
lib=$(find "$tmp/prefix" -name 'libkvgear.so' | head -n 1)
[ -n "$lib" ] || fail "no libkvgear.so was installed"
libdir=$(dirname "$lib")
others=$(find "$tmp/prefix" ! -type d ! -path '*/kvgear/*' ! -name 'libkvgear*.so*' ! -name kvgear.pc \
  ! -path '*/bin/kvgear-inspect' ! -path '*/bin/kvgear-plan')
[ -z "$others" ] || fail "files that are not ours to install: $others"
ok "installed: $(find "$tmp/prefix" ! -type d | wc -l) files"

# What it needs at run time: the C and C++ run-time libraries and the loader, nothing else.
needed=$(readelf -d "$lib" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
for n in $needed; do
  case $n in
    libc.so.*|libm.so.*|libstdc++.so.*|libgcc_s.so.*|ld-linux*.so.*) ;;
    *) fail "libkvgear.so needs $n at run time" ;;
  esac
done
soname=$(readelf -d "$lib" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
[ "$soname" = libkvgear.so.0 ] || fail "the soname is '$soname', not libkvgear.so.0"
ok "$soname needs: $(echo $needed)"

# What it exports: kvg_* and nothing else, all of it versioned.
exported=$(nm -D --defined-only "$lib" | awk '$2 != "A" { print $3 }')
[ -n "$exported" ] || fail "libkvgear.so exports nothing"
strangers=$(grep -v '^kvg_[a-z0-9_]*@@KVG_[0-9]*$' <<<"$exported" || true)
[ -z "$strangers" ] || fail "exported, but not a versioned kvg_* name: $(echo $strangers)"
if readelf -d "$lib" | grep -q TEXTREL; then fail "the library has text relocations"; fi
ok "exports $(wc -l <<<"$exported") symbols, all kvg_*"

# The tools beside it find what they need in the prefix.
"$tmp/prefix/bin/kvgear-inspect" "$here/../golden/files/one-layer.kvg" >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; fail "kvgear-inspect"; }
"$tmp/prefix/bin/kvgear-plan" latent --model="$here/../../examples/models/tiny" --out="$tmp/plan" >"$tmp/log" 2>&1 ||
  { cat "$tmp/log" >&2; fail "kvgear-plan"; }
ok "kvgear-inspect and kvgear-plan run"

# A C89 program by pkg-config.
export PKG_CONFIG_PATH="$libdir/pkgconfig"
for flag in $(pkg-config --cflags --libs kvgear); do
  case $flag in -I*|-L*|-l*) ;; *) fail "pkg-config gives the flag $flag" ;; esac
done
"$cc" -std=c89 -pedantic -Wall -Wextra -Werror "$here/consumer.c" -o "$tmp/by-pkg-config" \
  $(pkg-config --cflags --libs kvgear) || fail "the program does not build by pkg-config"
LD_LIBRARY_PATH="$libdir" "$tmp/by-pkg-config" || fail "the program built by pkg-config"
ok "a C89 program by pkg-config"

# The same program by CMake's find_package; a prefix that moved must do as well.
mv "$tmp/prefix" "$tmp/moved"
{ cmake -S "$here" -B "$tmp/consumer" -DCMAKE_PREFIX_PATH="$tmp/moved" -DCMAKE_BUILD_TYPE=Release &&
  cmake --build "$tmp/consumer"; } >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; fail "the program does not build by CMake"; }
"$tmp/consumer/consumer" || fail "the program built by CMake"
ok "the same program by CMake's find_package, from a moved prefix"
