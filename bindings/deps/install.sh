#!/usr/bin/env bash
# Installs what the bindings need and this Debian or Ubuntu machine lacks, with apt (as root, or through sudo). What is there already, from
# wherever, is left alone; with nothing left to do it takes a second.
#
#   bindings/deps/install.sh [go] [java] [rust] [swig]      all of them if none is named
#
# Exits non-zero if one of them could not be had, and says which and why.
#
#   go     1.21 or newer. Where the distribution's is older (Debian 12), it fetches a newer one by Go's module proxy, which checks it
#          against Go's checksum database, to .deps/go (KVGEAR_DEPS_DIR/go)
#   java   JDK 17 and Maven
#   rust   cargo and rustc 1.75 or newer, with rustfmt and clippy where the distribution has them
#   swig   4.1.0, for regenerate.sh
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
deps=${KVGEAR_DEPS_DIR:-$root/.deps}
. "$root/bindings/deps/env.sh"
go_wanted=1.22.12   # what is fetched where the distribution's is too old

say() { printf 'bindings setup: %s\n' "$*"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else say "this needs root or sudo: $*"; return 1
  fi
}
updated=0
update() {
  [ $updated = 0 ] || return 0
  updated=1
  as_root apt-get update -qq || say 'apt-get update had problems; trying with the lists at hand'
}
apt_install() {
  command -v apt-get >/dev/null || { say "there is no apt-get here; install by hand: $*"; return 1; }
  update
  say "installing $*"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
# The version of a package that apt would install; nothing if there is none.
candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: \(.*\)/\1/p' | sed 's/^[0-9]*://; /(none)/d'; }

install_go() {
  if ! command -v go >/dev/null; then apt_install golang-go || return 1; fi
  [ -n "$(missing go)" ] || return 0
  local arch module folder
  arch=$(go env GOARCH)
  module=golang.org/toolchain@v0.0.1-go$go_wanted.linux-$arch
  say "fetching Go $go_wanted; the one here is $(go env GOVERSION)"
  # With a module of its own: older versions download nothing outside of one.
  folder=$(mktemp -d)
  (cd "$folder" && printf 'module fetch\n' > go.mod && GOFLAGS=-mod=mod GOMODCACHE=$folder/cache go mod download "$module") || { rm -rf "$folder"; return 1; }
  chmod -R u+w "$folder/cache"
  rm -rf "$deps/go"
  mkdir -p "$deps"
  mv "$folder/cache/$module" "$deps/go"
  rm -rf "$folder"
  chmod +x "$deps/go/bin/"* "$deps/go/pkg/tool/linux_$arch/"*  # archives of modules keep no such bits
  PATH=$deps/go/bin:$PATH
}

install_rust() {
  local package
  if command -v rustup >/dev/null; then
    rustup default stable >/dev/null 2>&1 || rustup toolchain install stable --profile default
    return
  fi
  if command -v cargo >/dev/null; then say "cargo is too old, and it is not rustup's: install Rust 1.75 or newer by hand"; return 1; fi
  update
  for package in cargo cargo-web; do  # the second is Debian 12's newer one
    at_least "$(candidate $package | sed 's/[^0-9.].*//')" 1.75 || continue
    case $package in
      cargo) apt_install cargo rustfmt rust-clippy || apt_install cargo || continue ;;
      cargo-web) apt_install cargo-web rustfmt-web || apt_install cargo-web || continue ;;
    esac
    return 0
  done
  say 'the distribution has no Rust of 1.75 or newer'
  return 1
}

install_java() {
  local packages=()
  command -v javac >/dev/null || packages+=(openjdk-17-jdk-headless)
  command -v mvn >/dev/null || packages+=(maven)
  [ ${#packages[@]} = 0 ] || apt_install "${packages[@]}"
}

install_swig() { command -v swig >/dev/null || apt_install swig; }

failed=0
[ $# -gt 0 ] || set -- go java rust swig
for language in "$@"; do
  if [ -n "$(missing "$language")" ]; then "install_$language" || true; hash -r; fi
  reason=$(missing "$language")
  if [ -n "$reason" ]; then say "error: $reason"; failed=1; else say "$language: there"; fi
done
exit $failed
