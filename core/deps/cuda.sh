#!/usr/bin/env bash
# Fetches NVIDIA's compiler for the CUDA plugin, where the machine has none: the Python wheels of nvcc and the CUDA
# runtime, unpacked to .deps/cuda, where CMake finds them. Nothing is installed elsewhere. Safe to run again: with nothing
# left to do it takes no time. Building needs no GPU; core/deps/install.sh does not call this.
#
#   core/deps/cuda.sh            what the plugin is built with
#   core/deps/cuda.sh --cublas   cuBLAS too, which only kvgear-decode-bench uses; half a gigabyte
#
# KVGEAR_DEPS_DIR   as for core/deps/install.sh
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
deps=${KVGEAR_DEPS_DIR:-$root/.deps}
wheels=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88
        nvidia-cuda-cccl==13.0.85)

cublas=0
case ${1:-} in
  '') ;;
  --cublas) cublas=1; wheels+=(nvidia-cublas==13.1.0.3) ;;
  *) echo "cuda: error: unknown argument '$1' (there is --cublas)" >&2; exit 2 ;;
esac

say() { printf 'cuda: %s\n' "$*"; }
die() { printf 'cuda: error: %s\n' "$*" >&2; exit 1; }

for nvcc in "$(command -v nvcc || true)" "${CUDA_HOME:-/nonexistent}/bin/nvcc" "$deps/cuda/bin/nvcc" /usr/local/cuda/bin/nvcc; do
  [ -n "$nvcc" ] && [ -x "$nvcc" ] || continue
  if [ $cublas = 0 ] || [ -e "$(dirname "$nvcc")/../include/cublas_v2.h" ]; then
    say "nvcc is there: $nvcc"
    exit 0
  fi
  if [ "$nvcc" != "$deps/cuda/bin/nvcc" ]; then
    say "nvcc is there: $nvcc; its cuBLAS is not, install that of the same toolkit"
    exit 0
  fi
done
python3 -m pip --version >/dev/null 2>&1 || die "python3 with pip is needed to fetch nvcc (Debian and Ubuntu: apt-get install python3-pip)"
mkdir -p "$deps"
new=$(mktemp -d "$deps/cuda-new.XXXXXX")
trap 'rm -rf "$new"' EXIT
say "fetching ${wheels[*]}"
python3 -m pip install --quiet --no-deps --no-compile --only-binary=:all: --disable-pip-version-check --target "$new" \
  "${wheels[@]}" || die "pip could not fetch the wheels of nvcc"
tree=$(echo "$new"/nvidia/cu*)
[ -x "$tree/bin/nvcc" ] || die "the wheels hold no nvcc"
ln -sfn lib "$tree/lib64"
for lib in cudart cublas cublasLt; do  # the names that linkers look for
  file=$(cd "$tree/lib" && ls lib$lib.so.* 2>/dev/null | head -n 1 || true)
  if [ -n "$file" ]; then ln -sfn "$file" "$tree/lib/lib$lib.so"; fi
done
rm -rf "$deps/cuda"
chmod 755 "$tree"
mv "$tree" "$deps/cuda"
say "unpacked to $deps/cuda: $("$deps/cuda/bin/nvcc" --version | tail -n 2 | head -n 1)"
