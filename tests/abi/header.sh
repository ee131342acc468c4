#!/usr/bin/env bash
# Does the public header compile alone, once and twice, as every C and C++ that we promise, without one warning?
#   tests/abi/header.sh <include folder> <C compiler> <C++ compiler>
# clang is tried as well where it is installed.
set -euo pipefail
include=${1:?include folder}; cc=${2:?C compiler}; cxx=${3:?C++ compiler}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0; tried=0
strict=(-pedantic -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow -Wundef -Werror -fsyntax-only "-I$include")

# Each header first in its file: it must bring what it needs.
for header in "$include"/kvgear/*.h; do
  name=kvgear/$(basename "$header")
  printf '#include <%s>\n#include <%s>\nextern int kvg_header_check;\n' "$name" "$name" > "$tmp/check.c"
  cp "$tmp/check.c" "$tmp/check.cc"
  try() {
    tried=$((tried + 1))
    if ! "$@" "${strict[@]}"; then echo "FAILED: $* on $name" >&2; failed=$((failed + 1)); fi
  }
  c_compilers=("$cc"); cxx_compilers=("$cxx")
  if command -v clang >/dev/null; then c_compilers+=(clang); cxx_compilers+=(clang++); fi
  for c in "${c_compilers[@]}"; do
    for std in c89 c99 c11 c17; do
      try "$c" "-std=$std" -Wstrict-prototypes -Wmissing-prototypes -Wc++-compat "$tmp/check.c"
    done
  done
  for c in "${cxx_compilers[@]}"; do
    for std in c++11 c++14 c++17 c++20; do try "$c" "-std=$std" "$tmp/check.cc"; done
  done
done
[ "$tried" -gt 0 ] || { echo "FAILED: no header in $include/kvgear" >&2; exit 1; }

# The check must be able to fail.
printf '#include <kvgear/kvgear.h>\nint f(void) { // not C89\n  return 0; }\n' > "$tmp/bad.c"
if "$cc" -std=c89 "${strict[@]}" "$tmp/bad.c" 2>/dev/null; then
  echo "FAILED: the compiler takes C99 for C89, so this test shows nothing" >&2; exit 1
fi
echo "$tried compilations, $failed failed"
[ "$failed" = 0 ]
