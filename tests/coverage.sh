#!/usr/bin/env bash
# Which lines and branches of core and capi the tests run, in figures, after the tests of a build with KVGEAR_COVERAGE have run.
#   tests/coverage.sh <build folder>   prints them, and fails below 95 % of lines or 85 % of branches
#   KVGEAR_COVERAGE_DETAILS=FILE       also writes an HTML page for every source
# How branches are counted: gcc's, at -O0. The ways out of a call that may throw are not counted (gcovr --exclude-throw-branches), nor
# are branches that the compiler makes where a line has no code of its own (--exclude-unreachable-branches, such as the destructors of
# temporaries at a closing brace). Every if, loop, ?: and each part of && and || counts, both ways. Files that no test touches count as 0.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=${1:?build folder}
command -v gcovr >/dev/null || { echo "no gcovr here; apt-get install gcovr" >&2; exit 1; }
details=()
[ -z "${KVGEAR_COVERAGE_DETAILS:-}" ] || details=(--html-details "$KVGEAR_COVERAGE_DETAILS")
gcovr --root . --filter 'core/.*' --filter 'capi/src/.*' --exclude-throw-branches --exclude-unreachable-branches \
  --json-summary "$build/coverage.json" --txt "$build/coverage.txt" "${details[@]}" \
  "$build/core/CMakeFiles/kvg_core.dir" "$build/capi/CMakeFiles/kvgear.dir"
python3 - "$build/coverage.json" <<'PYTHON'
import json
import sys

with open(sys.argv[1]) as file:
    summary = json.load(file)
print(f"{'file':48} {'lines':>14} {'%':>6} {'branches':>14} {'%':>6}")
for f in sorted(summary['files'], key=lambda f: f['filename']):
    print(f"{f['filename']:48} {f['line_covered']:6} / {f['line_total']:5} {f['line_percent']:6.1f} "
          f"{f['branch_covered']:6} / {f['branch_total']:5} "
          f"{100 * f['branch_covered'] / f['branch_total'] if f['branch_total'] else 100:6.1f}")
lines = 100 * summary['line_covered'] / summary['line_total']
branches = 100 * summary['branch_covered'] / summary['branch_total']
print(f"core and capi: {lines:.1f} % of {summary['line_total']} lines, {branches:.1f} % of {summary['branch_total']} branches")
sys.exit(0 if lines >= 95 and branches >= 85 else 1)
PYTHON
