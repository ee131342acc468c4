#!/usr/bin/env bash
# What Maven cannot build of the package: the wrapper between Java and libkvgear, which goes into the jar with the library itself.
#   natives.sh FOLDER       FOLDER is Maven's target; called by pom.xml
# KVGEAR_BUILD_DIR names the build folder of the library (build/dev of the repository), or KVGEAR_LIBRARY the library. KVGEAR_NATIVES
# names a folder of ready ones instead, <os>/<arch>/*.so: for jars of several platforms.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
target=$1
jdk=${JAVA_HOME:-$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")}
resources=$target/natives/org/kvgear/native
rm -rf "$target/natives" "$target/foreign-stubs"
mkdir -p "$resources" "$target/foreign-stubs"

# Java 17 lacks the one interface that Segments.java names; see its stand-in.
"$jdk/bin/javac" -nowarn --patch-module java.base="$here/src/main/foreign-stubs" -d "$target/foreign-stubs" \
  "$here/src/main/foreign-stubs/java/lang/foreign/MemorySegment.java"

if [ -n "${KVGEAR_NATIVES:-}" ]; then
  cp -r "$KVGEAR_NATIVES/." "$resources/"
  exit
fi
library=${KVGEAR_LIBRARY:-${KVGEAR_BUILD_DIR:-$root/build/dev}/capi/libkvgear.so}
[ -e "$library" ] || { echo "natives.sh: there is no $library; build the target kvgear, or set KVGEAR_BUILD_DIR" >&2; exit 1; }
system=$(uname -s | tr '[:upper:]' '[:lower:]')
folder=$resources/$system/$(uname -m)
mkdir -p "$folder"
strip --strip-debug -o "$folder/libkvgear.so.0" "$library"
# SWIG turns jlong into pointers by casts that break the aliasing rules.
"${CC:-cc}" -std=c11 -D_GNU_SOURCE -O2 -g0 -fPIC -shared -fvisibility=hidden -fno-strict-aliasing -Wall -Wextra -Werror \
  -Wno-unused-function -I"$root/capi/include" -I"$jdk/include" -I"$jdk/include/$system" \
  "$here/src/main/c/raw_wrap.c" "$here/src/main/c/kvgear_jni.c" -o "$folder/libkvgear_jni.so" \
  -Wl,-z,defs -Wl,-z,relro -Wl,-z,now -ldl
