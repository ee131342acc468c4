#!/usr/bin/env bash
# Kills a program that saves over and over at random moments. After each kill the file must be whole: the old cache or the new one.
#   tests/fault/kill.sh <kill_save program> <rounds>
set -euo pipefail
program=${1:?program}; rounds=${2:-100}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$program" once "$folder/cache.kvg"
killed=0
for ((i = 0; i < rounds; i++)); do
  "$program" forever "$folder/cache.kvg" & pid=$!
  # Up to 20 ms, so that start, write, sync and rename are all hit.
  sleep "0.0$(printf '%02d' $((RANDOM % 20)))$((RANDOM % 10))"
  if kill -9 "$pid" 2>/dev/null; then killed=$((killed + 1)); fi
  wait "$pid" 2>/dev/null || true
  "$program" check "$folder/cache.kvg" || { echo "FAILED: not whole after $i kills" >&2; exit 1; }
done
# A kill between naming and renaming may leave a whole file under another name, and nothing else.
left=$(find "$folder" -type f ! -name cache.kvg | wc -l)
for file in "$folder"/*.whole; do [ ! -e "$file" ] || "$program" check "$file"; done
echo "$killed kills, the file was whole after each; $left other files left"
[ "$killed" -gt $((rounds / 2)) ]
