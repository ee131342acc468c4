"""Doc comments of a C header, and their way into rustdoc.

SWIG's XML has no comments in it, so they are read from the header itself:
`/** ... */` belongs to the declaration behind it, `/**< ... */` to the member before it.
"""
import re
from dataclasses import dataclass, field


@dataclass
class Doc:
    text: str = ""                               # paragraphs, line breaks as in the header
    params: dict = field(default_factory=dict)   # name -> text
    returns: str = ""


_BLOCK = re.compile(r"/\*\*(?!<)(.*?)\*/", re.S)
_STRUCT = re.compile(r"typedef struct (\w+) \{(.*?)\n\}", re.S)
_MEMBER = re.compile(r"(\w+)(?:\[\w+\])?;\s*/\*\*<(.*?)\*/", re.S)
_ENUM_ITEM = re.compile(r"^\s*(\w+)(?:\s*=[^,/\n]*)?,?\s*/\*\*<(.*?)\*/", re.S | re.M)
_DECLARED = [re.compile(p) for p in (
    r"#define (\w+)",
    r"typedef struct (\w+)\b",
    r"typedef [^;{(]*\(\*(\w+)\)",
    r"typedef [^;{(]*?(\w+);",
    r"enum (\w+) \{",
    r"[^;{(]*?(\w+)\(",
)]


def _plain(comment):
    lines = [re.sub(r"^\s*\* ?", "", line).rstrip() for line in comment.split("\n")]
    return "\n".join(lines).strip()


def _one_line(text):
    return " ".join(text.split())


def _parse(comment):
    doc, rest = Doc(), []
    tag = None
    for line in _plain(comment).split("\n"):
        match = re.match(r"@(param|return)(?:\[\w+\])?\s+(.*)", line)
        if match:
            tag, body = match.group(1), match.group(2)
            if tag == "param":
                name, _, body = body.partition(" ")
                tag = name
                doc.params[name] = body
            else:
                doc.returns = body
        elif tag is None:
            rest.append(line)
        elif tag == "return":
            doc.returns += " " + line
        else:
            doc.params[tag] += " " + line
    doc.text = "\n".join(rest).strip()
    doc.returns = _one_line(doc.returns)
    doc.params = {k: _one_line(v) for k, v in doc.params.items()}
    return doc


def read(header_text):
    """({name or "struct.field": Doc}, text of the first comment of the header)."""
    found = {}
    for match in _BLOCK.finditer(header_text):
        behind = header_text[match.end():].lstrip()
        for pattern in _DECLARED:
            declared = pattern.match(behind)
            if declared:
                found[declared.group(1)] = _parse(match.group(1))
                break
    for struct in _STRUCT.finditer(header_text):
        for name, comment in _MEMBER.findall(struct.group(2)):
            found[f"{struct.group(1)}.{name}"] = Doc(_one_line(_plain(comment)))
    for name, comment in _ENUM_ITEM.findall(header_text):
        found[name] = Doc(_one_line(_plain(comment)))
    first = re.match(r"\s*/\*(.*?)\*/", header_text, re.S)
    return found, _plain(first.group(1)) if first else ""


_SPECIAL = re.compile(r"([\[\]<>*~|\\])")
_NAME = re.compile(r"\b(kvg_[a-z0-9_]+|KVG_[A-Z0-9_]+)\b(?:\(\))?")


def markdown(text, links):
    """Escapes what Markdown would read. `links` gives the Markdown that stands for a C name."""
    parts = re.split(r"(`[^`]*`)", text)
    for i, part in enumerate(parts):
        if not part.startswith("`"):
            part = _SPECIAL.sub(r"\\\1", part)
            parts[i] = _NAME.sub(lambda m: links.get(m.group(1), f"`{m.group(0)}`"), part)
    return "".join(parts)


def comment(lines, indent=""):
    """Lines of a Rust doc comment."""
    return [f"{indent}/// {line}".rstrip() for line in lines]
