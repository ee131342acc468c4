#!/usr/bin/env bash
# Does each public header compile alone, once and twice, as every C and C++ from C89 to C23 and C++11 to C++23, without one
# warning, and can two files of one program include it?
#   tests/abi/header.sh <include folder> <C compiler> <C++ compiler>
# clang is tried as well where it is installed. What a compiler has no name for yet is left out, and the end says so; the newest
# C and C++ go by their working names (c2x, c++2b) in older compilers.
set -euo pipefail
include=${1:?include folder}; cc=${2:?C compiler}; cxx=${3:?C++ compiler}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0; tried=0
strict=(-pedantic -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow -Wundef -Werror -fsyntax-only "-I$include")

c_compilers=("$cc"); cxx_compilers=("$cxx")
if command -v clang >/dev/null; then c_compilers+=(clang); cxx_compilers+=(clang++); fi
: > "$tmp/empty.c"; : > "$tmp/empty.cc"
lacking=''
# newest COMPILER FILE NAME...: the first of the names that the compiler knows
newest() {
  local compiler=$1 file=$2 name; shift 2
  for name in "$@"; do
    if "$compiler" "-std=$name" -fsyntax-only "$file" 2>/dev/null; then echo "$name"; return; fi
  done
}
try() {
  tried=$((tried + 1))
  if ! "$@" "${strict[@]}"; then echo "FAILED: $* on $name" >&2; failed=$((failed + 1)); fi
}
# Each header first in its file: it must bring what it needs.
for header in "$include"/kvgear/*.h; do
  name=kvgear/$(basename "$header")
  printf '#include <%s>\n#include <%s>\nextern int kvg_header_check;\n' "$name" "$name" > "$tmp/check.c"
  cp "$tmp/check.c" "$tmp/check.cc"
  for c in "${c_compilers[@]}"; do
    c23=$(newest "$c" "$tmp/empty.c" c23 c2x); gnu23=$(newest "$c" "$tmp/empty.c" gnu23 gnu2x)
    [ -n "$c23" ] || lacking+=" $c:C23"
    for std in c89 gnu89 c99 c11 c17 gnu17 $c23 $gnu23; do
      try "$c" "-std=$std" -Wstrict-prototypes -Wmissing-prototypes -Wc++-compat "$tmp/check.c"
    done
  done
  for c in "${cxx_compilers[@]}"; do
    cxx23=$(newest "$c" "$tmp/empty.cc" c++23 c++2b)
    [ -n "$cxx23" ] || lacking+=" $c:C++23"
    for std in c++11 c++14 c++17 c++20 gnu++20 $cxx23; do try "$c" "-std=$std" "$tmp/check.cc"; done
  done
done
# Two files of one program, all headers in each, in C and in C++.
for language in c:"$cc" cc:"$cxx"; do
  suffix=${language%%:*}; compiler=${language#*:}
  for part in one two; do
    { for header in "$include"/kvgear/*.h; do echo "#include <kvgear/$(basename "$header")>"; done
      if [ $part = one ]; then echo 'int two(void); int main(void) { return two(); }'
      else echo 'int two(void); int two(void) { return 0; }'; fi
    } > "$tmp/$part.$suffix"
  done
  tried=$((tried + 1))
  "$compiler" "-I$include" -Wall -Wextra -Werror "$tmp/one.$suffix" "$tmp/two.$suffix" -o "$tmp/both" -ldl ||
    { echo "FAILED: two .$suffix files of one program" >&2; failed=$((failed + 1)); }
done
[ "$tried" -gt 0 ] || { echo "FAILED: no header in $include/kvgear" >&2; exit 1; }

# The check must be able to fail.
printf '#include <kvgear/kvgear.h>\nint f(void) { // not C89\n  return 0; }\n' > "$tmp/bad.c"
if "$cc" -std=c89 "${strict[@]}" "$tmp/bad.c" 2>/dev/null; then
  echo "FAILED: the compiler takes C99 for C89, so this test shows nothing" >&2; exit 1
fi
echo "$tried compilations, $failed failed${lacking:+; not tried for want of a name in the compiler:$lacking}"
[ "$failed" = 0 ]
