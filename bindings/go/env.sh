# For the scripts of this folder: where the library of the build folder is. Sets build and Go's environment.
build=${KVGEAR_BUILD_DIR:-$root/build/dev}
[ -e "$build/capi/libkvgear.so" ] || { echo "no $build/capi/libkvgear.so; build the target kvgear, or set KVGEAR_BUILD_DIR" >&2; exit 1; }
build=$(cd "$build" && pwd)
export CGO_ENABLED=1 GOTOOLCHAIN=local GOPROXY=off
export CGO_LDFLAGS="-L$build/capi -Wl,-rpath,$build/capi ${CGO_LDFLAGS:-}" GOFLAGS="-tags=kvgear_intree ${GOFLAGS:-}"
unset LD_LIBRARY_PATH
. "$root/bindings/deps/env.sh"
reason=$(missing go)
[ -z "$reason" ] || { echo "$reason" >&2; exit 1; }
