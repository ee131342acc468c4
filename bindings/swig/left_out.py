#!/usr/bin/env python3
"""Functions of kvgear.h that a language has no method for, as left_out.txt lists them.

  left_out.py <bindings/README.md>      renews the table between the two comments that name this file

Generators import it: read("go") is {function: reason}."""
import os
import re
import sys

LANGUAGES = ("go", "java", "rust")
LIST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "left_out.txt")


def entries(path=LIST):
    """[(language, function, reason)] in the order of the file."""
    found = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or line.startswith("#"):
                continue
            words = line.split(None, 2)
            if len(words) < 3 or words[0] not in LANGUAGES:
                raise SystemExit(f"{path}:{number}: not LANGUAGE FUNCTION REASON, with a language of {', '.join(LANGUAGES)}")
            entry = (words[0], words[1], words[2].strip())
            if entry[:2] in [e[:2] for e in found]:
                raise SystemExit(f"{path}:{number}: {words[1]} is there twice for {words[0]}")
            found.append(entry)
    return found


def read(language, path=LIST):
    return {function: reason for of, function, reason in entries(path) if of == language}


def table(path=LIST):
    """Markdown: a row for each reason of a language, with its functions."""
    rows = {}
    for language, function, reason in entries(path):
        rows.setdefault((language, reason), []).append(f"`{function}`")
    lines = ["| language | without a method | because |", "|---|---|---|"]
    names = {"go": "Go", "java": "Java", "rust": "Rust"}
    lines += [f"| {names[language]} | {', '.join(functions)} | {reason} |" for (language, reason), functions in rows.items()]
    return "\n".join(lines) + "\n"


def main():
    readme = sys.argv[1]
    with open(readme, encoding="utf-8") as file:
        before = file.read()
    after, count = re.subn(r"(<!-- from swig/left_out\.txt -->\n).*?(<!-- end of it -->)",
                           lambda m: m[1] + table() + m[2], before, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"left_out.py: {readme} has not one place for the table")
    if after != before:
        with open(readme, "w", encoding="utf-8") as file:
            file.write(after)


if __name__ == "__main__":
    main()
