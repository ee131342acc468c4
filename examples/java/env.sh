# For the scripts of this folder. Sets build and root as bindings/java/env.sh does, and how the service is built and started.
. "$here/../../bindings/java/env.sh"
export LC_ALL=C.UTF-8  # Java reads its arguments by it

# GOAL ARGUMENT...: of Maven, for the service; behind the package org.kvgear, which it takes from the local repository.
service_maven() {
  (cd "$root/bindings/java" && maven --quiet install -DskipTests -Dmaven.javadoc.skip -Dmaven.source.skip)
  (cd "$root/examples/java" && maven --quiet "$@")
}
library=-Dkvgear.library=$build/capi/libkvgear.so
# Java takes memory from the system as long as it may, however little it needs: a heap of one size, all there from the start, shows what
# is really held. It has room for the weights, answers, and a prompt of the longest kind for each processor.
heap=$((128 + 32 * $(nproc)))m
service=(java "$library" -Xms$heap -Xmx$heap -XX:+AlwaysPreTouch ${JAVA_OPTS:-} -jar "$root/examples/java/target/kvgear-service.jar")
