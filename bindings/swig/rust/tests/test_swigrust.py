"""Tests of the generator: python3 -m unittest discover -s bindings/swig/rust/tests

fixtures/toy.xml is what SWIG makes of fixtures/toy.i, less addresses and SWIG's own library. Where SWIG is
installed the tests run it as well.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from swigrust import docs, raw, safe, tree  # noqa: E402

FIXTURES = os.path.join(HERE, "fixtures")
TOY_XML = os.path.join(FIXTURES, "toy.xml")


def toy_docs():
    with open(os.path.join(FIXTURES, "toy.h"), encoding="utf-8") as header:
        return docs.read(header.read())


def run_swig(folder, name="toy"):
    out = os.path.join(folder, name + ".xml")
    subprocess.run(["swig", "-xml", "-DSWIGWORDSIZE64", f"-I{folder}", "-o", out,
                    os.path.join(folder, name + ".i")], check=True, capture_output=True)
    return out


def strip(xml_path, header):
    """The part of a parse tree that concerns the header, without what changes from run to run."""
    for include in ElementTree.parse(xml_path).getroot().iter("include"):
        if os.path.basename(tree.attributes(include).get("name", "")) == header:
            for node in include.iter():
                for key in ("id", "addr"):
                    node.attrib.pop(key, None)
                for block in node.findall("attributelist"):
                    for attribute in block.findall("attribute"):
                        if attribute.get("value", "").startswith("0x7f") or attribute.get("name") == "_last":
                            block.remove(attribute)
                    for scope in block.findall("typescope") + block.findall("typetab"):
                        block.remove(scope)
            for attribute in include.findall("attributelist/attribute"):
                if attribute.get("name") == "name":
                    attribute.set("value", header)
            text = ElementTree.tostring(include, encoding="unicode")
            return "<top>\n" + re.sub(r"\s*\n\s*", "\n", text).strip() + "\n</top>\n"
    raise AssertionError(f"{header} is not in {xml_path}")


class OfTheToy(unittest.TestCase):
    def setUp(self):
        self.interface = tree.read(TOY_XML, "toy.h")
        self.docs, self.conventions = toy_docs()

    def test_model(self):
        enum = self.interface.of(tree.Enum)[0]
        self.assertEqual(enum.items, [("KVG_OK", 0), ("KVG_E_NOMEM", 2), ("KVG_E_ODD", 3)])
        self.assertEqual([h.name for h in self.interface.of(tree.Handle)], ["kvg_box"])
        self.assertEqual([s.name for s in self.interface.of(tree.Struct)], ["kvg_error", "kvg_shape"])
        self.assertEqual(self.interface.named("kvg_box").features, {"handle": "kvg_box_destroy"})
        self.assertEqual(len(self.interface.of(tree.Function)), 6)

    def test_types(self):
        text = raw.types(self.interface, self.docs)
        self.assertIn("pub const KVG_LIMIT: u32 = 16;", text)
        self.assertIn("/// no memory\npub const KVG_E_NOMEM: kvg_status = 2;\n", text)
        self.assertIn("pub const KVG_E_ODD: kvg_status = 3;", text)
        self.assertIn("pub message: [c_char; 16],", text)
        self.assertIn("/// how many\n    pub r#type: u32,", text)
        self.assertIn('pub alloc: Option<unsafe extern "C" fn(user: *mut c_void, size: usize) -> *mut c_void>,', text)
        self.assertIn('pub type kvg_hook =\n    Option<unsafe extern "C" fn(user: *mut c_void, text: *const c_char)>;',
                      text)
        self.assertIn("/// Called with `user`; a \\> b.\n", text)
        self.assertIn("/// Sizes \\[a, b\\].\n", text)
        self.assertNotIn("enum kvg_status_code {", text)

    def test_functions(self):
        text = raw.functions(self.interface, self.docs)
        self.assertIn("/// Returns a static string for [`KVG_LIMIT`](crate::KVG_LIMIT).\n"
                      "    fn kvg_name(index: u32) -> *const c_char;", text)
        self.assertIn("/// Makes a box; see [`kvg_box_weight`](crate::kvg_box_weight).\n    ///\n    /// * `out`: the box, at last\n"
                      "    fn kvg_box_create(shape: *const kvg_shape, out: *mut *mut kvg_box, "
                      "err: *mut kvg_error) -> kvg_status;", text)
        self.assertIn("    fn kvg_box_destroy(r#box: *mut kvg_box);", text)

    def test_layout(self):
        text = raw.layout(self.interface)
        self.assertIn("layout_of!(kvg_shape: struct_size, r#type, alloc),", text)
        self.assertIn('("KVG_E_ODD", i64::from(KVG_E_ODD)),', text)
        self.assertIn('("kvg_status", core::mem::size_of::<kvg_status>()),', text)

    def test_conventions(self):
        text = raw.conventions(self.conventions)
        self.assertIn("1. Names are kvg_\\<noun\\>_\\<verb\\>.\n2. A rule\n   of two lines.\n", text)

    def methods(self):
        made = safe.Safe(self.interface, self.docs)
        return {f.name: made.function(f) for f in self.interface.of(tree.Function) if made.is_generated(f)}

    def test_methods(self):
        made = self.methods()
        self.assertEqual(sorted(made), ["kvg_box_text", "kvg_box_weight"])
        noun, lines = made["kvg_box_weight"]
        self.assertEqual(noun, "Box")
        self.assertEqual("\n".join(lines), (
            "    /// Weighs, or gives [`Status::NoMemory`](crate::Status::NoMemory).\n"
            "    pub fn weight(&self) -> Result<u64> {\n"
            "        let mut weight: u64 = 0;\n"
            "        call(|err| unsafe { sys::kvg_box_weight(self.raw(), &mut weight, err) })?;\n"
            "        Ok(weight)\n"
            "    }"))
        self.assertIn("    pub fn text(&mut self, r#fn: &str) -> Result<String> {", made["kvg_box_text"][1])

    def test_unknown_parameters_are_refused(self):
        weight = self.interface.named("kvg_box_weight")
        weight.features.clear()
        with self.assertRaisesRegex(tree.Unsupported, "kvg_box_weight: parameter weight"):
            self.methods()

    def test_functions_without_error_are_refused(self):
        self.interface.named("kvg_box_weight").params.pop()
        with self.assertRaisesRegex(tree.Unsupported, "does not end in kvg_error"):
            self.methods()

    def test_unknown_types_are_refused(self):
        self.interface.named("kvg_name").params[0].type = "p.wchar_t"
        with self.assertRaisesRegex(tree.Unsupported, "wchar_t"):
            raw.functions(self.interface, self.docs)

    def test_unknown_structs_and_missing_docs_are_refused(self):
        shape = tree.Struct("kvg_thing", [], {"versioned": "kvg_thing_init"})
        self.interface.declarations.append(shape)
        with self.assertRaisesRegex(tree.Unsupported, "safe.py does not say what becomes of struct kvg_thing"):
            safe.generated(self.only_structs(), {**self.docs, "kvg_shape.type": docs.Doc("x")})
        made = safe.Safe(self.interface, self.docs)
        with self.assertRaisesRegex(tree.Unsupported, "kvg_error.code has no comment"):
            made.doc("kvg_error.code", "")

    def only_structs(self):
        self.interface.declarations = [d for d in self.interface.declarations if d.name == "kvg_thing"]
        return self.interface


class OfSwig(unittest.TestCase):
    """What SWIG says now is what the fixture says; and headers that must be refused."""

    def setUp(self):
        if shutil.which("swig") is None:
            self.skipTest("swig is not installed")
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def test_fixture_is_what_swig_makes(self):
        for name in ("toy.h", "toy.i"):
            shutil.copy(os.path.join(FIXTURES, name), self.folder)
        now = tree.read(run_swig(self.folder), "toy.h")
        self.assertEqual(now.declarations, tree.read(TOY_XML, "toy.h").declarations)

    def refused(self, header, words):
        with open(os.path.join(self.folder, "bad.h"), "w", encoding="utf-8") as out:
            out.write(header + "\nvoid kvg_f(void);\n")
        with open(os.path.join(self.folder, "bad.i"), "w", encoding="utf-8") as out:
            out.write('%module bad\n%include <stdint.i>\n%include "bad.h"\n')
        xml = run_swig(self.folder, "bad")
        with self.assertRaisesRegex(tree.Unsupported, words):
            interface = tree.read(xml, "bad.h")
            raw.types(interface, {})
            raw.functions(interface, {})

    def test_refused_headers(self):
        self.refused("enum kvg_e { KVG_A = 1 << 3 };", "KVG_A")
        self.refused("union kvg_u { int a; float b; };", "kvg_u is a union")
        self.refused("struct kvg_s { unsigned a : 3; };", "kvg_s.a is not a plain field")
        self.refused("int kvg_printf(const char *format, ...);", "variable number")
        self.refused("struct kvg_t *kvg_g(struct kvg_unknown *x);", "has no rule")
        self.refused("void kvg_g(int);", "has no name")
        self.refused("#define KVG_PI 3.25", "KVG_PI is '3.25'")
        self.refused("extern int kvg_global;", "kvg_global is a variable")
        self.refused("typedef int kvg_array[3];", "kvg_array has the declarator")
        self.refused("enum kvg_e { KVG_A };", "no typedef kvg_e")


if __name__ == "__main__":
    if sys.argv[1:] == ["--record"]:  # makes fixtures/toy.xml again
        with tempfile.TemporaryDirectory() as folder:
            for source in ("toy.h", "toy.i"):
                shutil.copy(os.path.join(FIXTURES, source), folder)
            recorded = strip(run_swig(folder), "toy.h")
        with open(TOY_XML, "w", encoding="utf-8") as fixture:
            fixture.write(recorded)
    else:
        unittest.main()
