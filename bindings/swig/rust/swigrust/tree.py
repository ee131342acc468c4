"""Reads the parse tree of `swig -xml` into a small model of a C interface.

The tree's own addresses differ from run to run; nothing of them gets into the model, so what is made
from the model is the same every time. What the model cannot express is refused with the name of the
declaration, so nothing of a header is left out in silence.
"""
import os
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field


class Unsupported(Exception):
    """The interface holds something that has no rule here."""


@dataclass
class Param:
    name: str
    type: str  # in SWIG's notation, such as "p.q(const).kvg_plan"


@dataclass
class Function:
    name: str
    params: list
    result: str
    features: dict  # "bytes_in_q" -> "q_bytes", as the interface file says


@dataclass
class Field:
    name: str
    type: str
    params: list = field(default_factory=list)  # of a function pointer


@dataclass
class Struct:
    name: str
    fields: list
    features: dict


@dataclass
class Constant:
    name: str
    value: int
    type: str


@dataclass
class Enum:
    name: str
    items: list  # of (name, value)


@dataclass
class Handle:
    name: str
    features: dict


@dataclass
class Alias:
    name: str
    type: str


@dataclass
class Callback:
    name: str
    params: list
    result: str


class Interface:
    """All declarations in the header's order, and lists of each kind."""

    def __init__(self):
        self.declarations = []

    def of(self, kind):
        return [d for d in self.declarations if isinstance(d, kind)]

    def named(self, name):
        for d in self.declarations:
            if d.name == name:
                return d
        raise Unsupported(f"there is no declaration named {name}")


INTEGER = re.compile(r"(-?(?:0[xX][0-9a-fA-F]+|[0-9]+))[uUlL]*")


def integer(text, where):
    match = INTEGER.fullmatch(text.strip())
    if not match:
        raise Unsupported(f"{where} is {text!r}, which is not a plain integer")
    return int(match.group(1), 0)


def attributes(node):
    return {a.get("name"): a.get("value")
            for block in node.findall("attributelist") for a in block.findall("attribute")}


def features(attrs):
    prefix = "feature_kvg_"
    return {k[len(prefix):]: v for k, v in attrs.items() if k.startswith(prefix)}


def params(node):
    found = [attributes(p) for p in node.findall("attributelist/parmlist/parm")]
    return [Param(p.get("name", ""), p["type"]) for p in found if p["type"] != "void"]


def split_declarator(decl):
    """'f(a,b).p.' -> ('f(a,b)', 'p.'); anything else -> ('', decl)."""
    if not decl.startswith("f("):
        return "", decl
    depth = 0
    for i, ch in enumerate(decl):
        depth += (ch == "(") - (ch == ")")
        if ch == ")" and depth == 0:
            return decl[:i + 1], decl[i + 1:].removeprefix(".")
    raise Unsupported(f"declarator {decl!r} has no end")


def _enum(node, attrs):
    items, following = [], 0
    for item in node.findall("enumitem"):
        a = attributes(item)
        name = a["name"]
        if "enumvalue" in a:
            following = integer(a["enumvalue"], name)
        elif "enumvalueex" in a and not re.fullmatch(r"\w+ \+ 1|0", a["enumvalueex"].strip()):
            raise Unsupported(f"{name} is {a['enumvalueex']!r}, which is not a plain integer")
        items.append((name, following))
        following += 1
    return Enum(attrs["name"], items)


def _struct(node, attrs):
    if attrs.get("kind") != "struct":
        raise Unsupported(f"{attrs['name']} is a {attrs.get('kind')}; only structs are known")
    fields = []
    for member in node.findall("cdecl"):
        a = attributes(member)
        if a.get("kind") != "variable" or "bitfield" in a:
            raise Unsupported(f"{attrs['name']}.{a.get('name')} is not a plain field")
        fields.append(Field(a["name"], a.get("decl", "") + a["type"], params(member)))
    return Struct(attrs["name"], fields, features(attrs))


def _cdecl(node, attrs):
    name, decl, kind = attrs["name"], attrs.get("decl", ""), attrs.get("kind")
    if kind == "function":
        head, rest = split_declarator(decl)
        if "..." in head or "v(" in head:
            raise Unsupported(f"{name} takes a variable number of arguments")
        return Function(name, params(node), rest + attrs["type"], features(attrs))
    if kind != "typedef":
        raise Unsupported(f"{name} is a {kind}; only functions and typedefs are known")
    if decl.startswith("p.f("):
        return Callback(name, params(node), split_declarator(decl[2:])[1] + attrs["type"])
    if decl:
        raise Unsupported(f"typedef {name} has the declarator {decl!r}")
    if attrs["type"] == f"struct {name}":
        return Handle(name, features(attrs))
    if attrs["type"] == f"enum {name}":
        return None
    return Alias(name, attrs["type"])


READERS = {
    "constant": lambda node, a: Constant(a["name"], integer(a.get("rawval", a["value"]), a["name"]),
                                         a["type"]),
    "enum": _enum,
    "class": _struct,
    "cdecl": _cdecl,
}


def read(xml_path, header):
    """The interface that the header named `header` declares; `header` is a file name without folder."""
    interface = Interface()
    for include in ElementTree.parse(xml_path).getroot().iter("include"):
        if os.path.basename(attributes(include).get("name", "")) != header:
            continue
        for node in include:
            if node.tag == "attributelist":
                continue
            attrs = attributes(node)
            if node.tag not in READERS:
                raise Unsupported(f"{header} holds a <{node.tag}> {attrs.get('name', '')}")
            declaration = READERS[node.tag](node, attrs)
            if declaration is not None:
                interface.declarations.append(declaration)
    # `typedef struct X X;` of a struct that has a body names the struct, not a handle.
    bodies = {s.name for s in interface.of(Struct)}
    interface.declarations = [d for d in interface.declarations
                              if not (isinstance(d, Handle) and d.name in bodies)]
    if not interface.of(Function):
        raise Unsupported(f"no functions of {header} in {xml_path}")
    return interface
