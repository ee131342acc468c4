#!/usr/bin/env bash
# Every test of the Go module, against the library of a build folder. Exits non-zero if anything failed.
#   bindings/go/test.sh               KVGEAR_BUILD_DIR names the build folder (build/dev)
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
step test; go test -count=1 ./...
step race; go test -count=1 -race ./...
# Every pointer that goes to C or into Go memory is checked.
step cgocheck; GOEXPERIMENT=cgocheck2 go test -count=1 ./...
step 'a program outside of the module, by pkg-config'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
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
echo '--- go: all passed'
