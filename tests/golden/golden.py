#!/usr/bin/env python3
"""The golden files by the second reader: the same numbers, and the bad ones refused.   golden.py FOLDER"""
import os
import struct
import sys

sys.dont_write_bytecode = True
import read_cache  # noqa: E402


# What only a reader that knows the host's model, or that guards kernels, refuses.
NOT_OURS = {"bad-model.kvg", "bad-width.kvg", "bad-segment-form.kvg", "bad-segment-rank.kvg"}


def main(folder):
    failed = files = 0
    with open(os.path.join(folder, "expected.txt"), encoding="ascii") as text:
        lines = text.read().splitlines()
    for i, line in enumerate(lines):
        if line.startswith("> "):
            continue
        name, status = line.split()[:2]
        want = []
        for more in lines[i + 1:]:
            if not more.startswith("> "):
                break
            want.append(more)
        files += 1
        with open(os.path.join(folder, name), "rb") as file:
            data = file.read()
        try:
            got = ["> " + line for line in read_cache.digests(read_cache.read(data)[1])]
            wrong = status != "ok" and name not in NOT_OURS or status == "ok" and got != want
            why = f"read as {got}"
        except (read_cache.Refused, struct.error, IndexError) as refusal:
            wrong, why = status == "ok", f"refused: {refusal}"
        if wrong:
            failed += 1
            print(f"FAILED: {name}, {status} expected: {why}", file=sys.stderr)
    print(f"{files} files, {failed} failed")
    return 1 if failed or not files else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
