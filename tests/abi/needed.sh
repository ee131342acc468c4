#!/usr/bin/env bash
# Does the library need nothing at run time but the system's C and C++ run-time libraries, and is it linked soundly?
#   tests/abi/needed.sh <libkvgear.so> <sanitizers of the build, or nothing>
set -euo pipefail
lib=${1:?library}; sanitizers=${2:-}
dynamic=$(readelf -dW "$lib")
bad=0
fail() { echo "FAILED: $*" >&2; bad=1; }

for n in $(sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' <<<"$dynamic"); do
  case $n in
    libc.so.*|libm.so.*|libstdc++.so.*|libgcc_s.so.*|ld-linux*.so.*) ;;
    libasan.so.*|libubsan.so.*|libtsan.so.*) [ -n "$sanitizers" ] || fail "needs $n" ;;
    *) fail "needs $n" ;;
  esac
done
soname=$(sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p' <<<"$dynamic")
[[ $soname =~ ^libkvgear\.so\.[0-9]+$ ]] || fail "the soname is '$soname'"
if grep -q TEXTREL <<<"$dynamic"; then fail "text relocations"; fi
if grep -Eq '\((RPATH|RUNPATH)\)' <<<"$dynamic"; then fail "a built-in search path"; fi
if [ -z "$sanitizers" ]; then
  grep -q 'BIND_NOW\|NOW' <<<"$dynamic" || fail "lazy binding (no -z now)"
fi
grep -q 'NODELETE' <<<"$dynamic" || fail "dlclose would unload it under live handles (no -z nodelete)"
if readelf -lW "$lib" | grep 'GNU_STACK' | grep -q 'RWE'; then fail "an executable stack"; fi
[ "$bad" = 0 ] && echo "$soname: sound"
exit "$bad"
