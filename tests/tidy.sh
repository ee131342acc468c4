#!/usr/bin/env bash
# clang-tidy, with the checks of .clang-tidy, over core and capi or over the files that are named.
#   tests/tidy.sh <build folder> [--changed COMMIT | FILE...]
# Needs clang-tidy (Debian, Ubuntu: clang-tidy), and the compile_commands.json of a configured build folder. Without clang-tidy it
# says so and ends with 77.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=${1:?build folder}; shift
command -v clang-tidy >/dev/null || { echo "skipped: no clang-tidy here; apt-get install clang-tidy"; mkdir -p build
  echo 'no clang-tidy' > build/skipped; exit 77; }
if [ "${1:-}" = --changed ]; then
  mapfile -t files < <(git diff --name-only --diff-filter=d "${2:?commit}" -- 'core/*.cc' 'capi/*.cc')
elif [ $# -gt 0 ]; then files=("$@")
else mapfile -t files < <(git ls-files 'core/*.cc' 'capi/*.cc'); fi
[ ${#files[@]} -gt 0 ] || { echo 'no files'; exit 0; }
# One after another on each processor; what gcc alone understands of the command lines is no finding.
printf '%s\n' "${files[@]}" | xargs -P "${KVGEAR_JOBS:-$(nproc)}" -n 1 \
  clang-tidy -p "$build" --quiet --extra-arg=-Wno-unknown-warning-option 2> >(grep -v 'warnings generated\|Suppressed\|Use -header-filter' >&2)
echo "${#files[@]} files: clean"
