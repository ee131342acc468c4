#!/usr/bin/env bash
# Every test of the Go module, against the library of a build folder. Exits non-zero if anything failed.
#   bindings/go/test.sh               KVGEAR_BUILD_DIR names the build folder (build/dev), KVGEAR_TSAN_BUILD_DIR one of the preset tsan
# What cannot be had on a machine (Go 1.21, a library with TSan) is skipped, and the last lines say so.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
. "$here/env.sh"
cd "$here"

step() { printf -- '--- go: %s\n' "$*"; }

step version; go version
step gofmt
badly=$(gofmt -l .)
[ -z "$badly" ] || { printf 'not formatted:\n%s\n' "$badly" >&2; exit 1; }
step vet; go vet ./...
# A million caches at steady memory; the other steps make fewer.
step test; KVGEAR_LEAK_CYCLES=${KVGEAR_LEAK_CYCLES:-1000000} go test -count=1 ./...
step race; KVGEAR_LEAK_CYCLES=20000 go test -count=1 -race ./...
# Every pointer that goes to C or into Go memory is checked.
step cgocheck; KVGEAR_LEAK_CYCLES=20000 GOEXPERIMENT=cgocheck2 go test -count=1 ./...
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
skipped=()
skip() { skipped+=("$1: $2"); printf 'SKIPPED  %s: %s\n' "$1" "$2"; }

# The oldest Go that go.mod allows, with its own library and compiler. Go fetches it by its module proxy.
oldest=go$(sed -n 's/^go //p' go.mod).13
if env -u GOPROXY GOTOOLCHAIN="$oldest" go version >/dev/null 2>&1; then
  step "test with $oldest"; env -u GOPROXY GOTOOLCHAIN="$oldest" KVGEAR_LEAK_CYCLES=20000 go test -count=1 ./...
else skip "test with $oldest" 'it is not here and cannot be fetched'; fi

# Go's own race detector sees Go alone. This one sees the library, and by what cgo adds for it, where calls begin and end.
tsan=${KVGEAR_TSAN_BUILD_DIR:-$root/build/tsan}/capi
if [ -e "$tsan/libkvgear.so" ]; then
  step 'threads, with TSan in the library'
  CGO_CFLAGS='-fsanitize=thread -g -O1' CGO_LDFLAGS="-fsanitize=thread -L$tsan -Wl,-rpath,$tsan" go test -c -o "$work/tsan" .
  no_aslr=()
  if setarch "$(uname -m)" -R true 2>/dev/null; then no_aslr=(setarch "$(uname -m)" -R); fi
  TSAN_OPTIONS=halt_on_error=1 "${no_aslr[@]}" "$work/tsan" -test.count=5 \
    -test.run '^Test(ReadersAndOneWriter|ForksOnDifferentGoroutines|CloseDuringUse|CloseOfTheOthersDuringUse|DetailsDoNotMix|StreamsOnManyGoroutines|PrefixesOnManyGoroutines|BatchesAndWriters)$'
else skip 'threads, with TSan in the library' "there is no $tsan/libkvgear.so (preset tsan, target kvgear)"; fi

step 'a program outside of the module, by pkg-config'
mkdir "$work/program"
cat > "$work/kvgear.pc" <<END
Name: kvgear
Description: the library of the build folder
Version: 0
Libs: -L$build/capi -lkvgear
Cflags: -I$root/capi/include
END
cp -r "$here" "$work/module"  # as a download would have it: without the rest of the repository
cp "$here/testdata/program.go.txt" "$work/program/main.go"
printf 'module example\n\ngo 1.21\n\nrequire kvgear.org/kvgear v0.0.0\n\nreplace kvgear.org/kvgear => ../module\n' > "$work/program/go.mod"
(cd "$work/program" && env -u CGO_LDFLAGS GOFLAGS=-mod=mod PKG_CONFIG_PATH="$work" go build -o program . &&
  LD_LIBRARY_PATH="$build/capi" ./program)
for what in "${skipped[@]}"; do echo "skipped: $what"; done
echo '--- go: all passed'
