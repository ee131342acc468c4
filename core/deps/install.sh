#!/usr/bin/env bash
# Sets a Debian or Ubuntu machine up to build and test kvgear. Safe to run again: with nothing left to do it takes a second.
#
#   1. installs the missing build tools and test libraries with apt (as root, or through sudo);
#   2. fetches the sources of Abseil and Highway as the distribution's own source packages, and unpacks them with the
#      distribution's patches to .deps/abseil-src and .deps/highway-src. apt checks the archive's signature and every hash;
#      the upstream tarball is checked a second time against the table below.
#
# KVGEAR_DEPS_DIR   where the sources go (default: .deps at the top of the tree). Sources already there are left alone.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
deps=${KVGEAR_DEPS_DIR:-$root/.deps}

packages=(build-essential cmake ninja-build pkg-config libgtest-dev libgmock-dev libbenchmark-dev nlohmann-json3-dev
          dpkg-dev binutils librsvg2-bin python3)
# Tools of single tests, which say that they are skipped where a tool is missing.
tools=(abigail-tools gcovr)

# Upstream tarballs whose content we have checked: source package, upstream version, sha256 of the .orig tarball.
known_tarballs='
abseil  20220623.1 abfe2897f3a30edaa74bc34365afe3c2a3cd012091a97dc7e008f7016adcd5fe
highway 1.0.3      566fc77315878473d9a6bd815f7de78c73734acdcb745c3dde8579560ac5440e
'

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
  die "this script knows Debian and Ubuntu (apt-get) only. Elsewhere, install a C++20 compiler, CMake 3.22+, Ninja, \
GoogleTest, Google Benchmark and nlohmann-json, and put the sources of Abseil and Highway in $deps/abseil-src and \
$deps/highway-src (or configure with -DKVGEAR_SYSTEM_ABSEIL=ON -DKVGEAR_SYSTEM_HIGHWAY=ON)."

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "packages are missing and this user is not root and has no sudo. Ask an administrator to run: \
apt-get install --no-install-recommends ${missing[*]}"
  fi
}

# --- 1. packages -----------------------------------------------------------------------------------------------------
missing=()
for p in "${packages[@]}"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null || true)" = installed ] || missing+=("$p")
done
if [ ${#missing[@]} = 0 ]; then
  say "packages: all ${#packages[@]} are installed"
else
  say "packages: installing ${missing[*]}"
  as_root apt-get update -qq || say "packages: apt-get update had problems; trying with the lists at hand"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    die "apt-get could not install: ${missing[*]}"
fi

missing=()
for p in "${tools[@]}"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null || true)" = installed ] || missing+=("$p")
done
if [ ${#missing[@]} != 0 ]; then
  say "tools: installing ${missing[*]}"
  (as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null) ||
    say "tools: apt-get could not install ${missing[*]}; the tests that need them are skipped"
fi

# --- 2. sources ------------------------------------------------------------------------------------------------------
wanted=()
for name in abseil highway; do
  if [ -f "$deps/$name-src/CMakeLists.txt" ]; then
    say "$name: sources are in $deps/$name-src ($(cat "$deps/$name-src/.kvgear-source" 2>/dev/null || echo 'placed by hand'))"
  else
    wanted+=("$name")
  fi
done
if [ ${#wanted[@]} = 0 ]; then
  say "done"
  exit 0
fi

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
chmod 755 "$tmp"   # apt fetches as its own user
mkdir -p "$tmp/lists/partial" "$tmp/cache/archives/partial" "$tmp/download"
if [ "$(id -u)" = 0 ] && id _apt >/dev/null 2>&1; then chown _apt "$tmp/download"; fi

# The machine's own entries for the distribution's archive, whichever file format they are written in, as deb-src lines.
# Only entries that the archive itself labels Debian or Ubuntu count, and only that distribution's key is accepted.
deb_src_lines() {  # arguments: apt-get options
  apt-get "$@" indextargets --format '$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
    sort -u | while IFS='|' read -r origin uri suite component; do
      case $origin in
        Debian) key=/usr/share/keyrings/debian-archive-keyring.gpg ;;
        Ubuntu) key=/usr/share/keyrings/ubuntu-archive-keyring.gpg ;;
        *) continue ;;
      esac
      case $suite in *-backports) continue ;; esac
      if [ -f "$key" ]; then opt="[signed-by=$key] "; else opt=''; fi
      printf 'deb-src %s%s %s %s\n' "$opt" "$uri" "$suite" "$component"
    done
}
deb_src_lines > "$tmp/deb-src.list"
if [ ! -s "$tmp/deb-src.list" ]; then  # no package lists on this machine yet: read them into the temporary folder
  own=(-o "Dir::State::Lists=$tmp/lists" -o "Dir::Cache=$tmp/cache")
  apt-get "${own[@]}" update -qq || true
  deb_src_lines "${own[@]}" > "$tmp/deb-src.list"
fi
[ -s "$tmp/deb-src.list" ] ||
  die "apt's sources on this machine name no Debian or Ubuntu archive, so the sources of ${wanted[*]} cannot be fetched. \
Put them in $deps/<name>-src by hand, or configure with -DKVGEAR_SYSTEM_ABSEIL=ON -DKVGEAR_SYSTEM_HIGHWAY=ON."

apt_src=(-o "Dir::Etc::sourcelist=$tmp/deb-src.list" -o Dir::Etc::sourceparts=/dev/null
         -o "Dir::State::Lists=$tmp/lists" -o "Dir::Cache=$tmp/cache")
say "sources: reading the archive's list of source packages"
apt-get "${apt_src[@]}" update -qq || die "apt-get could not read the list of source packages"
say "sources: downloading ${wanted[*]}"
(cd "$tmp/download" && apt-get "${apt_src[@]}" source -qq --download-only --only-source "${wanted[@]}" >"$tmp/log" 2>&1) ||
  { cat "$tmp/log" >&2; die "apt-get could not download the source packages ${wanted[*]}"; }

for name in "${wanted[@]}"; do
  tarball=$(cd "$tmp/download" && ls "${name}"_*.orig.tar.* | grep -v '\.asc$' | head -n 1)
  version=${tarball#"${name}"_}; version=${version%%.orig.tar.*}
  sum=$(sha256sum "$tmp/download/$tarball" | cut -d' ' -f1)
  pinned=$(awk -v n="$name" -v v="$version" '$1 == n && $2 == v { print $3 }' <<<"$known_tarballs")
  if [ -z "$pinned" ]; then
    say "$name: version $version is not in this script's table; going on because apt verified it (sha256 $sum)"
  elif [ "$pinned" != "$sum" ]; then
    die "$name $version: the tarball has sha256 $sum but $pinned is expected; nothing was unpacked"
  fi
  # apt has checked the .dsc and what it lists; the packager's own signature on it is not needed again.
  dpkg-source --no-check -q -x "$tmp/download/${name}"_*.dsc "$tmp/$name" >"$tmp/log" 2>&1 ||
    { cat "$tmp/log" >&2; die "$name: the source package could not be unpacked"; }
  if [ "$name" = abseil ]; then
    # Distributions make absl::string_view and its kin types of their own, to keep one ABI over all C++ standards. This
    # private, hidden copy is only ever C++20, so they are the std:: types, as upstream has it.
    sed -i -E 's/^(#define ABSL_OPTION_USE_STD_[A-Z_]+) 0$/\1 2/' "$tmp/abseil/absl/base/options.h"
  fi
  printf '%s, sha256 %s\n' "$version" "$sum" > "$tmp/$name/.kvgear-source"
  mkdir -p "$deps"
  rm -rf "$deps/$name-src.new" "$deps/$name-src"
  mv "$tmp/$name" "$deps/$name-src.new"   # may copy between file systems; the last step is atomic
  mv "$deps/$name-src.new" "$deps/$name-src"
  say "$name: $version unpacked to $deps/$name-src"
done
say "done"
