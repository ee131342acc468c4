"""python3 -m swigrust TREE.xml HEADER.h CRATES: writes the generated files of both crates."""
import os
import sys

from . import docs, raw, safe, tree


def generate(xml_path, header_path):
    """{path below the crates' folder: text}."""
    interface = tree.read(xml_path, os.path.basename(header_path))
    with open(header_path, encoding="utf-8") as header:
        comments, conventions = docs.read(header.read())
    return {
        "kvgear-sys/src/types.rs": raw.types(interface, comments),
        "kvgear-sys/src/functions.rs": raw.functions(interface, comments),
        "kvgear-sys/src/conventions.md": raw.conventions(conventions),
        "kvgear-sys/tests/generated/mod.rs": raw.layout(interface),
        "kvgear/src/generated.rs": safe.generated(interface, comments),
    }


def main(arguments):
    if len(arguments) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        files = generate(arguments[0], arguments[1])
    except tree.Unsupported as refusal:
        print(f"swigrust: {refusal}", file=sys.stderr)
        return 1
    for path, text in files.items():
        path = os.path.join(arguments[2], path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="\n") as out:
            out.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
