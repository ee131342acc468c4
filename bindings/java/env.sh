# For the scripts of this folder: where the library of the build folder is, and Maven. Sets build and root.
root=$(cd "$here/../.." && pwd)
build=${KVGEAR_BUILD_DIR:-$root/build/dev}
[ -e "$build/capi/libkvgear.so" ] || { echo "no $build/capi/libkvgear.so; build the target kvgear, or set KVGEAR_BUILD_DIR" >&2; exit 1; }
build=$(cd "$build" && pwd)
export KVGEAR_BUILD_DIR=$build
unset KVGEAR_LIBRARY KVGEAR_NATIVES LD_LIBRARY_PATH
for tool in javac mvn cc; do
  command -v $tool >/dev/null || { echo "there is no $tool here; Debian: apt-get install openjdk-17-jdk-headless maven gcc" >&2; exit 1; }
done
# Warnings are errors with the oldest Java; newer ones warn of what it does not know, such as System.load.
case $(javac -version 2>&1) in 'javac 17'*) strict=true ;; *) strict=false ;; esac
maven() { mvn --batch-mode --no-transfer-progress -Dmaven.compiler.failOnWarning=$strict "$@"; }
