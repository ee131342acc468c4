"""Writes the raw layer: constants, types and functions as C has them, and a table of layout facts."""
import re

from . import docs as docs_module
from .tree import (Alias, Callback, Constant, Enum, Function, Handle, Struct, Unsupported,
                   integer, split_declarator)

PRIMITIVES = {
    "void": "c_void", "char": "c_char", "int": "c_int", "unsigned int": "c_uint",
    "size_t": "usize", "float": "f32", "double": "f64",
    **{f"{c}int{bits}_t": f"{r}{bits}" for c, r in (("", "i"), ("u", "u")) for bits in (8, 16, 32, 64)},
}
KEYWORDS = {"as", "box", "fn", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref",
            "type", "use", "where"}
HEAD = "// Generated from bindings/swig/kvgear.i by bindings/swig/rust/regenerate.sh. Do not edit."


def identifier(name):
    return f"r#{name}" if name in KEYWORDS else name


class Types:
    """From SWIG's type strings to Rust."""

    def __init__(self, interface):
        self.names = {d.name for kind in (Alias, Callback, Handle, Struct) for d in interface.of(kind)}

    def rust(self, swig_type, params=()):
        if swig_type.startswith("p.f("):
            result = split_declarator(swig_type[2:])[1]
            return f"Option<{self.signature(params, result)}>"
        if swig_type.startswith("p.q(const)."):
            return "*const " + self.rust(swig_type[len("p.q(const)."):])
        if swig_type.startswith("p."):
            return "*mut " + self.rust(swig_type[2:])
        array = re.fullmatch(r"a\(([^()]+)\)\.(.*)", swig_type)
        if array:
            return f"[{self.rust(array.group(2))}; {integer(array.group(1), 'the length of an array')}]"
        name = re.sub(r"^struct ", "", swig_type)
        if name in PRIMITIVES:
            return PRIMITIVES[name]
        if name in self.names:
            return name
        raise Unsupported(f"the type {swig_type!r} has no rule")

    def arguments(self, params):
        for number, p in enumerate(params):
            if not p.name:
                raise Unsupported(f"parameter {number} of type {p.type!r} has no name")
        return ", ".join(f"{identifier(p.name)}: {self.rust(p.type)}" for p in params)

    def result(self, swig_type):
        return "" if swig_type == "void" else f" -> {self.rust(swig_type)}"

    def signature(self, params, result):
        return f'unsafe extern "C" fn({self.arguments(params)}){self.result(result)}'


def enum_alias(enum, interface):
    """The integer type that values of an enum travel in: `enum kvg_dtype_value` goes with kvg_dtype."""
    name = re.sub(r"_(value|code)$", "", enum.name)
    if not any(a.name == name for a in interface.of(Alias)):
        raise Unsupported(f"enum {enum.name} has no typedef {name} of fixed width")
    return name


def doc_lines(doc, links, indent=""):
    if doc is None:
        return []
    lines = docs_module.markdown(doc.text, links).split("\n") if doc.text else []
    if doc.params:
        lines += [""] if lines else []
        lines += [f"* `{name}`: {docs_module.markdown(text, links)}" for name, text in doc.params.items()]
    if doc.returns:
        lines += [""] if lines else []
        lines.append("Returns " + docs_module.markdown(doc.returns, links))
    return docs_module.comment(lines, indent)


def links_of(interface):
    names = [d.name for d in interface.declarations if not isinstance(d, Enum)]
    names += [item for e in interface.of(Enum) for item, _ in e.items]
    return {name: f"[`{name}`](crate::{name})" for name in names}


def types(interface, docs):
    known, links = Types(interface), links_of(interface)
    out = [HEAD, "//", "// Constants and types of kvgear.h.", "",
           "use core::ffi::{c_char, c_void};", ""]
    for d in interface.declarations:
        head = doc_lines(docs.get(d.name), links)
        if isinstance(d, Constant):
            out += head + [f"pub const {d.name}: {'i32' if d.value < 0 else 'u32'} = {d.value};"]
        elif isinstance(d, Alias):
            out += head + [f"pub type {d.name} = {known.rust(d.type)};"]
        elif isinstance(d, Enum):
            alias = enum_alias(d, interface)
            for item, value in d.items:
                out += doc_lines(docs.get(item), links)
                out.append(f"pub const {item}: {alias} = {value};")
        elif isinstance(d, Handle):
            out += head + ["#[repr(C)]", f"pub struct {d.name} {{", "    _private: [u8; 0],",
                           "    _marker: core::marker::PhantomData<(*mut u8, core::marker::PhantomPinned)>,",
                           "}"]
        elif isinstance(d, Callback):
            out += head + [f"pub type {d.name} =", f"    Option<{known.signature(d.params, d.result)}>;"]
        elif isinstance(d, Struct):
            out += head + ["#[repr(C)]", "#[derive(Clone, Copy, Debug)]", f"pub struct {d.name} {{"]
            for f in d.fields:
                out += doc_lines(docs.get(f"{d.name}.{f.name}"), links, "    ")
                out.append(f"    pub {identifier(f.name)}: {known.rust(f.type, f.params)},")
            out.append("}")
        else:
            continue
        out.append("")
    return "\n".join(out[:-1]) + "\n"


def functions(interface, docs):
    known, links = Types(interface), links_of(interface)
    out = [HEAD, "//", "// Functions of kvgear.h; the macro makes them linked or looked up at run time.", "",
           "functions! {"]
    for d in interface.of(Function):
        out += doc_lines(docs.get(d.name), links, "    ")
        out.append(f"    fn {d.name}({known.arguments(d.params)}){known.result(d.result)};")
        out.append("")
    return "\n".join(out[:-1] + ["}"]) + "\n"


def layout(interface):
    """A test helper: every struct, field, constant and scalar with Rust's idea of it."""
    out = [HEAD, "//", "// What Rust makes of the structs and constants of kvgear.h; abi.rs compares it with C.", "",
           "use crate::{layout_of, Struct};", "use kvgear_sys::*;", "",
           "pub fn structs() -> Vec<Struct> {", "    vec!["]
    for s in interface.of(Struct):
        fields = ", ".join(identifier(f.name) for f in s.fields)
        out.append(f"        layout_of!({s.name}: {fields}),")
    out += ["    ]", "}", "", "pub fn constants() -> Vec<(&'static str, i64)> {", "    vec!["]
    for d in interface.declarations:
        names = [d.name] if isinstance(d, Constant) else [n for n, _ in d.items] if isinstance(d, Enum) else []
        out += [f'        ("{n}", i64::from({n})),' for n in names]
    out += ["    ]", "}", "", "pub fn scalars() -> Vec<(&'static str, usize)> {", "    vec!["]
    out += [f'        ("{a.name}", core::mem::size_of::<{a.name}>()),' for a in interface.of(Alias)]
    out += ["    ]", "}"]
    return "\n".join(out) + "\n"


def conventions(text):
    """The first comment of the header as Markdown for the front page of the raw crate."""
    lines, numbered = [], False
    for line in text.split("\n"):
        line = docs_module.markdown(line.strip(), {})
        item = re.match(r"\((\d+)\) +(.*)", line)
        if item:
            lines.append(f"{item.group(1)}. {item.group(2)}")
            numbered = True
        elif line == "CONVENTIONS":
            lines += ["## Conventions", ""]
        else:
            lines.append(f"   {line}".rstrip() if numbered else line)
    lines[0] = "## " + lines[0]
    return "\n".join(lines).rstrip() + "\n"
