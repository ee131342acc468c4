#!/usr/bin/env bash
# Writes the ABI of a library, as abidw (libabigail) reads it: exports, their parameters, the structs of the public headers.
#   tests/abi/abixml.sh <libkvgear.so> <include folder> <output>
set -euo pipefail
abidw --headers-dir "$2" --drop-private-types --exported-interfaces-only --no-corpus-path --no-comp-dir-path --type-id-style hash \
  "$1" --out-file "$3"
# Where a declaration stands, and what the library links with, is not its ABI.
sed -i -e "s/ filepath='[^']*' line='[0-9]*' column='[0-9]*'//" -e '/<elf-needed>/,/<\/elf-needed>/d' "$3"
