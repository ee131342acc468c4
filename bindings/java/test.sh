#!/usr/bin/env bash
# Everything that is tested of the Java binding. Exits non-zero if anything failed.
#   bindings/java/test.sh        KVGEAR_BUILD_DIR: where libkvgear.so was built, default build/dev
# Needs Java 17 or newer, Maven and gcc. What cannot be had on a machine (SWIG, a Java of 22 or newer; KVGEAR_JDK22 names its folder)
# is skipped, and the last lines say so.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/env.sh"
cd "$here"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
jar=$here/target/kvgear-0.1.0.jar
cache=-Dkvgear.cache=$here/target/natives-cache

passed=0; failed=(); skipped=()
# NAME COMMAND...: shows what a step printed if it failed, and how many tests ran. A command that is a function must itself stop
# where something fails: "set -e" does not hold in it.
step() {
  local name=$1; shift
  if "$@" >"$work/log" 2>&1; then
    passed=$((passed + 1))
    echo "ok       $name$(sed -n 's/^.*Tests run: \([0-9]*\),.*Skipped: 0$/ (\1 tests)/p; s/^\[ *\([0-9]*\) tests successful.*/ (\1 tests)/p' "$work/log" | tail -1)"
  else
    failed+=("$name"); echo "FAILED   $name"; cat "$work/log"
  fi
}
skip() { skipped+=("$1: $2"); echo "SKIPPED  $1: $2"; }

# Java says "WARNING in native method" and "WARNING: JNI ..." on its standard output, and goes on.
checked() {
  local status=0
  "$1" -Xcheck:jni "$cache" "${@:2}" >"$work/checked" 2>&1 || status=$?
  cat "$work/checked"
  if grep -q 'WARNING.*\(native method\|JNI\)\|FATAL ERROR' "$work/checked"; then echo "-Xcheck:jni has something to say"; return 1; fi
  return $status
}

jars() {
  local name
  jar --list --file "$jar" >"$work/names"
  for name in module-info.class org/kvgear/KvgCache.class "org/kvgear/native/$(uname -s | tr '[:upper:]' '[:lower:]')/$(uname -m)/libkvgear.so.0"; do
    grep -qx "$name" "$work/names" || { echo "$jar has no $name"; return 1; }
  done
  if grep -E 'java/lang|jpms.args|Test' "$work/names"; then echo "this does not belong into $jar"; return 1; fi
  mkdir "$work/jars"
  (cd "$work/jars" && jar --extract --file "${jar%.jar}-sources.jar" && jar --extract --file "${jar%.jar}-javadoc.jar") || return 1
  grep -q kvg_cache_attend "$work/jars/org/kvgear/internal/Raw.java" && grep -q 'Full blocks of the oldest' "$work/jars/org.kvgear/org/kvgear/KvgCache.html"
}

junit_checked() {  # all tests again, outside of Maven, whose own protocol hides what Java prints
  mvn --batch-mode --quiet org.apache.maven.plugins:maven-dependency-plugin:3.6.1:build-classpath -Dmdep.outputFile="$work/classpath" || return 1
  checked java -Xms256m -Xmx256m -XX:+AlwaysPreTouch -cp "target/classes:target/test-classes:$(cat "$work/classpath")" \
    org.junit.platform.console.ConsoleLauncher execute --scan-classpath target/test-classes --disable-banner --details=summary --fail-if-no-tests
}

program() {  # JAVA: the program of README.md as a module, which knows the jar and nothing else
  rm -rf "$work/example"
  "$1/bin/javac" -Xlint:all -p "$jar" -d "$work/example" \
    src/test/module/module-info.java src/test/module/example/Main.java || return 1
  (cd "$work" && checked "$1/bin/java" "${@:2}" -p "$jar:$work/example" -m example/example.Main) >"$work/said" || { cat "$work/said"; return 1; }
  grep -q 'tokens in .* bits an element' "$work/said" && grep -q '^module module org.kvgear$' "$work/said"
}

segments() {  # JAVA
  "$1/bin/javac" -Xlint:all -cp "$jar" -d "$work/segments" src/test/java22/SegmentsCheck.java || return 1
  checked "$1/bin/java" --enable-native-access=ALL-UNNAMED -cp "$jar:$work/segments" SegmentsCheck >"$work/said" || { cat "$work/said"; return 1; }
  grep -q 'segments passed' "$work/said"
}

newer_java() {
  local home
  for home in ${KVGEAR_JDK22:-} /usr/lib/jvm/*; do
    if [ -x "$home/bin/javac" ] && [ "$("$home/bin/javac" -version 2>&1 | sed 's/javac \([0-9]*\).*/\1/')" -ge 22 ]; then echo "$home"; return; fi
  done
}

if command -v "${SWIG:-swig}" >/dev/null; then step 'generated files are those of the header' ../regenerate.sh --check java
else skip 'generated files are those of the header' 'SWIG is not installed (apt-get install swig)'; fi
step 'package and tests' maven clean package
step 'jars' jars
step 'tests with -Xcheck:jni' junit_checked
step 'a program as a module' program "$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")"
newer=$(newer_java)
if [ -n "$newer" ]; then
  step "memory segments, $("$newer/bin/javac" -version)" segments "$newer"
  step "a program as a module, $("$newer/bin/javac" -version)" program "$newer" --enable-native-access=org.kvgear
else skip 'memory segments' 'there is no Java of 22 or newer in /usr/lib/jvm; KVGEAR_JDK22 names one'; fi

echo
for what in "${skipped[@]}"; do echo "skipped: $what"; done
for what in "${failed[@]}"; do echo "failed: $what"; done
echo "java bindings: $passed passed, ${#failed[@]} failed, ${#skipped[@]} skipped"
[ ${#failed[@]} = 0 ]
