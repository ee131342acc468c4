"""Writes the mechanical part of the safe layer: enums, structs, and methods whose signature says all.

What stays to be written by hand in the crate: making and ending handles, buffers of elements, and the
log callback. What each function's parameters mean comes from the features of kvgear.i; the tables
below hold only what is a matter of Rust: names, and which fields a user of Rust sets.
"""
import os
import re

from . import docs as docs_module
from .raw import HEAD, PRIMITIVES, Types, doc_lines, enum_alias, identifier
from .tree import Enum, Function, Handle, Struct, Unsupported

# Enums whose values also come out of the library, and what an unknown one becomes. The status has an
# own variant for it.
RECEIVED = {"kvg_status": "Unknown", "kvg_log_level": None}
NOT_AN_ERROR = "KVG_OK"
VARIANTS = {"KVG_E_NOMEM": "NoMemory", "KVG_E_NONFINITE": "NonFinite"}

# What becomes of each versioned struct. "options": a builder, of these fields; "plain": public fields
# that the user sets; "result": public fields that the library sets; "hand": the crate fills it in.
STRUCTS = {
    "kvg_runtime_options": ("options", ["device", "device_id", "threads", "memory_budget"]),
    "kvg_attend_desc": ("options", ["non_causal", "scale", "logit_softcap", "sliding_window"]),
    "kvg_append_desc": ("hand", None),
    "kvg_shape": ("plain", None),
    "kvg_stats": ("result", None),
    "kvg_allocator": ("hand", None),
    "kvg_save_desc": ("hand", None),
    "kvg_load_desc": ("hand", None),
    "kvg_prefix_stats": ("result", None),
}
STRUCT_NAMES = {"kvg_attend_desc": "AttendOptions", "kvg_prefix": "PrefixStore"}
FIELD_TYPES = {"kvg_attend_desc.non_causal": "bool"}
HIDDEN_FIELDS = {"struct_size", "reserved"}

# Functions whose `layer` may be KVG_ALL_LAYERS.
ALL_LAYERS = {"kvg_cache_truncate", "kvg_cache_stats", "kvg_cache_select"}

# Handles of which several threads may use even the functions that change them (rule 4 of the header).
SHARED = {"kvg_runtime", "kvg_plan", "kvg_prefix"}

# Functions without a handle: the type whose associated function each becomes.
NOUNS = {"kvg_recipe_canonical": "Recipe"}

# Where the words of the C header do not fit Rust, or where it has none.
DOCS = {
    "kvg_runtime_options": "What [`Runtime::new`](crate::Runtime::new) needs to know. What is not set keeps "
                           "the default of the library.",
    "kvg_attend_desc": "How [`Cache::attend_with`](crate::Cache::attend_with) is to compute. What is not set "
                       "keeps the default of the library: causal, no cap, no window.",
    "kvg_runtime_describe": 'A line such as "cpu AVX3_ZEN4, 1 worker thread, no budget".',
    "kvg_recipe_canonical":
        "Checks a recipe text and returns its canonical form: the name of the base recipe and the settings\n"
        "that differ from it, in a fixed order. Parsing the result gives the same recipe. A text is\n"
        "`NAME[,KEY=VALUE]...`, for example `gear-2,k.rank=4,v.bits=3,window=64`. A key without `k.` or `v.`\n"
        "sets both sides.",
    "kvg_plan_shape": "The shape that the plan was made for.",
    "kvg_plan_recipe": "The canonical recipe text of one layer.",
    "kvg_cache_stats": "The statistics of one layer or of all, for one side or both. Cost: O(segments).",
    "kvg_status_code": "Why a call failed.",
    "kvg_attend_desc.non_causal": "False: a query sees its own token and older ones; true: it sees all.",
    "kvg_stats.rel_error_v_mean": "|V - V~| / |V| (Frobenius), mean over sealed segments by tokens.",
    "kvg_stats.rel_error_v_worst": "Of the worst segment.",
    "kvg_prefix_read_stats": "What the store holds and did.",
    "KVG_SIDE_K": "Keys.",
    "KVG_SIDE_V": "Values.",
    "KVG_LOG_DEBUG": "Of use when looking for a fault.",
    "KVG_LOG_INFO": "Worth knowing.",
    "KVG_LOG_WARN": "Something is not as it should be, and work goes on.",
    "KVG_LOG_ERROR": "Something failed.",
}
LINKS = {"kvg_cache_create": "Cache::new", "kvg_runtime_create": "Runtime::new", "kvg_plan_create": "Plan::new",
         "kvg_runtime": "Runtime", "kvg_plan": "Plan", "kvg_cache": "Cache", "kvg_prefix": "PrefixStore",
         "kvg_cache_truncate": "Cache::truncate", "kvg_prefix_find": "PrefixStore::find",
         "KVG_ALL_LAYERS": "Layers::All"}


def camel(name):
    return "".join(word.capitalize() for word in name.lower().split("_"))


def rust_name(c_name):
    return STRUCT_NAMES.get(c_name) or camel(c_name.removeprefix("kvg_"))


def shown_items(enum):
    return [(n, v) for n, v in enum.items if n != NOT_AN_ERROR]


def variant(item, enum):
    prefix = os.path.commonprefix([n for n, _ in shown_items(enum)])
    prefix = prefix[:prefix.rindex("_") + 1]
    return VARIANTS.get(item) or camel(item.removeprefix(prefix))


class Safe:
    def __init__(self, interface, docs):
        self.interface, self.docs, self.types = interface, docs, Types(interface)
        self.enums = {enum_alias(e, interface): e for e in interface.of(Enum)}
        self.handles = {h.name: h for h in interface.of(Handle)}
        self.links = {c: self.link(rust) for c, rust in LINKS.items()}
        for alias, enum in self.enums.items():
            for item, _ in shown_items(enum):
                self.links[item] = self.link(f"{rust_name(alias)}::{variant(item, enum)}")
        for f in interface.of(Function):
            if self.is_generated(f):
                self.links[f.name] = self.link(f"{self.noun(f)}::{self.verb(f)}")

    @staticmethod
    def link(path):
        return f"[`{path}`](crate::{path})"

    def doc(self, key, indent, required=True):
        if key in DOCS:
            text = DOCS[key]
            if "](" not in text:
                text = docs_module.markdown(text, self.links)
            return docs_module.comment(text.split("\n"), indent)
        doc = self.docs.get(key)
        if doc is None or not doc.text:
            if required:
                raise Unsupported(f"{key} has no comment in the header and none in safe.py")
            return []
        text = doc.text
        if not re.match(r"\w\b", text):  # "c > 0" stays a formula
            text = text[0].upper() + text[1:]
        if not re.search(r"[.?!]$", text):
            text += "."
        return doc_lines(docs_module.Doc(text), self.links, indent)

    # ---------------------------------------------------------------- functions

    def is_generated(self, f):
        """Does the signature say all that a method needs?"""
        endings = {h.features.get("handle") for h in self.handles.values()}
        starts = {s.features.get("versioned") for s in self.interface.of(Struct)}
        by_hand = ("creates" in f.features or "raw" in f.features or "optional" in f.features or
                   any(k.startswith("bytes_") for k in f.features))
        return f.result == "kvg_status" and f.name not in endings | starts and not by_hand

    def receiver(self, f):
        match = re.fullmatch(r"p\.(q\(const\)\.)?(\w+)", f.params[0].type) if f.params else None
        return match if match and match.group(2) in self.handles else None

    def noun(self, f):
        receiver = self.receiver(f)
        if receiver:
            return rust_name(receiver.group(2))
        if f.name not in NOUNS:
            raise Unsupported(f"{f.name} has no handle; say in safe.py which type it belongs to")
        return NOUNS[f.name]

    @staticmethod
    def verb(f):
        return f.name.split("_", 2)[2]

    def function(self, f):
        """(noun, lines of one method)."""
        receiver, params = self.receiver(f), list(f.params)
        if not params or params[-1].type != "p.kvg_error":
            raise Unsupported(f"{f.name} does not end in kvg_error *")
        params.pop()
        arguments, call, before = [], [], []
        result, value = "()", "()"
        texts = {k.removeprefix("text_out_"): v.split(",") for k, v in f.features.items()
                 if k.startswith("text_out_")}
        if receiver:
            shared = receiver.group(1) or receiver.group(2) in SHARED
            arguments.append("&self" if shared else "&mut self")
            call.append("self.raw()")
            params.pop(0)
        else:
            before.append("crate::load()?;")
        text = None
        hidden = {name for names in texts.values() for name in names}
        for p in params:
            name = identifier(p.name)
            if p.name in texts:
                text = [p.name] + texts[p.name]
                call += text
                result = "String"
            elif p.name in hidden:
                continue
            elif f.features.get("value_out") == p.name:
                result = value = self.types.rust(p.type.removeprefix("p."))
                before.append(f"let mut {name}: {result} = 0;")
                call.append(f"&mut {name}")
                value = name
            elif f.features.get("struct_out") == p.name:
                c_name = p.type.removeprefix("p.")
                result = rust_name(c_name)
                init = self.interface.named(c_name).features["versioned"]
                before.append(f"let mut {name} = init(|p| unsafe {{ sys::{init}(p) }});")
                call.append(f"&mut {name}")
                value = f"{result}::from_raw(&{name})"
            elif p.type == "p.q(const).char":
                arguments.append(f"{name}: &str")
                before.append(f'let {name} = c_text({name}, "{p.name}")?;')
                call.append(f"{name}.as_ptr()")
            elif p.type in self.enums:
                arguments.append(f"{name}: {rust_name(p.type)}")
                call.append(f"{name}.raw()")
            elif p.name == "layer" and f.name in ALL_LAYERS:
                arguments.append("layers: impl Into<Layers>")
                before.append("let layers = layers.into().raw();")
                call.append("layers")
            elif p.type in PRIMITIVES and p.type not in ("void", "char"):
                arguments.append(f"{name}: {self.types.rust(p.type)}")
                call.append(name)
            else:
                raise Unsupported(f"{f.name}: parameter {p.name} of type {p.type!r} has no rule")
        lines = self.doc(f.name, "    ")
        lines.append(f"    pub fn {self.verb(f)}({', '.join(arguments)}) -> Result<{result}> {{")
        lines += [f"        {line}" for line in before]
        calling = f"unsafe {{ sys::{f.name}({', '.join(call + ['err'])}) }}"
        if text:
            lines.append(f"        text_of(|{', '.join(text)}, err| {calling})")
        elif value == "()":
            lines.append(f"        call(|err| {calling})")
        else:
            lines += [f"        call(|err| {calling})?;", f"        Ok({value})"]
        return self.noun(f), lines + ["    }"]

    # ------------------------------------------------------------ enums, structs

    def enum(self, alias, enum):
        name, items = rust_name(alias), shown_items(enum)
        extra = RECEIVED.get(alias)
        rust_alias = self.types.rust(self.interface.named(alias).type)
        key = enum.name if enum.name in DOCS else alias
        ordered = ", PartialOrd, Ord" if alias == "kvg_log_level" else ""
        doc = self.doc(key, "")
        doc = [re.sub(r"; one of enum `\w+`", "", line) for line in doc]
        out = doc + [f"#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash{ordered})]", "#[non_exhaustive]",
                     f"pub enum {name} {{"]
        for item, _ in items:
            out += self.doc(item, "    ") + [f"    {variant(item, enum)},"]
        if extra:
            out += ["    /// A value that this version of the crate does not know.", f"    {extra}({rust_alias}),"]
        out += ["}", "", f"impl {name} {{", "    /// The value that C has for it.",
                f"    pub const fn raw(self) -> sys::{alias} {{", "        match self {"]
        out += [f"            Self::{variant(item, enum)} => sys::{item}," for item, _ in items]
        if extra:
            out.append(f"            Self::{extra}(value) => value,")
        out += ["        }", "    }"]
        if alias in RECEIVED:
            result, wrap = ("Self", "{}") if extra else ("Option<Self>", "Some({})")
            out += ["", f"    pub(crate) const fn from_raw(value: sys::{alias}) -> {result} {{",
                    "        match value {"]
            out += [f"            sys::{item} => {wrap.format('Self::' + variant(item, enum))},"
                    for item, _ in items]
            out += [f"            other => Self::{extra}(other)," if extra else "            _ => None,",
                    "        }", "    }"]
        return out + ["}", ""]

    def field_type(self, struct, field):
        explicit = FIELD_TYPES.get(f"{struct.name}.{field.name}")
        return explicit or (rust_name(field.type) if field.type in self.enums else self.types.rust(field.type))

    def to_raw(self, struct, field, value):
        if field.type in self.enums:
            return f"{value}.raw()"
        if FIELD_TYPES.get(f"{struct.name}.{field.name}") == "bool":
            return f"{self.types.rust(field.type)}::from({value})"
        return value

    def struct(self, struct):
        kind, chosen = STRUCTS[struct.name]
        name, init = rust_name(struct.name), struct.features["versioned"]
        unknown = set(chosen or []) - {f.name for f in struct.fields}
        if unknown:
            raise Unsupported(f"{struct.name} has no field {', '.join(sorted(unknown))}")
        fields = [f for f in struct.fields if (f.name in chosen if chosen else f.name not in HIDDEN_FIELDS)]
        start = f"let mut raw = init(|p| unsafe {{ sys::{init}(p) }});"
        head = self.doc(struct.name, "")
        docs = {f.name: self.doc(f"{struct.name}.{f.name}", "    ") for f in fields}
        if kind == "options":
            out = head + ["#[derive(Clone, Debug, Default, PartialEq)]", f"pub struct {name} {{"]
            out += [f"    {f.name}: Option<{self.field_type(struct, f)}>," for f in fields]
            out += ["}", "", f"impl {name} {{", "    /// The defaults.", "    pub fn new() -> Self {",
                    "        Self::default()", "    }", ""]
            for f in fields:
                out += docs[f.name] + [
                    "    #[must_use]",
                    f"    pub fn {f.name}(mut self, {f.name}: {self.field_type(struct, f)}) -> Self {{",
                    f"        self.{f.name} = Some({f.name});", "        self", "    }", ""]
            out += [f"    pub(crate) fn to_raw(&self) -> sys::{struct.name} {{", f"        {start}"]
            for f in fields:
                out += [f"        if let Some({f.name}) = self.{f.name} {{",
                        f"            raw.{f.name} = {self.to_raw(struct, f, f.name)};", "        }"]
            return out + ["        raw", "    }", "}", ""]
        derive = ["#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]"] if kind == "plain" else \
                 ["#[derive(Clone, Copy, Debug, Default, PartialEq)]", "#[non_exhaustive]"]
        out = head + derive + [f"pub struct {name} {{"]
        for f in fields:
            out += docs[f.name] + [f"    pub {f.name}: {self.field_type(struct, f)},"]
        out += ["}", "", f"impl {name} {{"]
        if kind == "plain":
            out += [f"    pub(crate) fn to_raw(self) -> sys::{struct.name} {{", f"        {start}"]
            out += [f"        raw.{f.name} = {self.to_raw(struct, f, 'self.' + f.name)};" for f in fields]
            out += ["        raw", "    }", ""]
        out += [f"    pub(crate) fn from_raw(raw: &sys::{struct.name}) -> Self {{", "        Self {"]
        out += [f"            {f.name}: raw.{f.name}," for f in fields]
        return out + ["        }", "    }", "}", ""]


def generated(interface, docs):
    safe = Safe(interface, docs)
    out = [HEAD, "//", "// The part of the safe layer that follows from the C interface alone.", "",
           "use kvgear_sys as sys;", "",
           "use crate::call::{c_text, call, init, text_of};",
           "use crate::{Cache, Layers, Plan, PrefixStore, Recipe, Result, Runtime};", ""]
    for alias, enum in safe.enums.items():
        out += safe.enum(alias, enum)
    for struct in interface.of(Struct):
        if "versioned" not in struct.features:
            continue
        if struct.name not in STRUCTS:
            raise Unsupported(f"safe.py does not say what becomes of struct {struct.name}")
        if STRUCTS[struct.name][0] != "hand":
            out += safe.struct(struct)
    methods = {}
    for f in interface.of(Function):
        if safe.is_generated(f):
            noun, lines = safe.function(f)
            methods.setdefault(noun, []).extend([""] + lines)
    for noun, lines in methods.items():
        life = "<'_>" if noun in ("Cache", "PrefixStore") else ""
        out += [f"impl {noun}{life} {{"] + lines[1:] + ["}", ""]
    return "\n".join(out[:-1]) + "\n"
