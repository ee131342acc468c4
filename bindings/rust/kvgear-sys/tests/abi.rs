//! Is what the crate declares what C has? Compared with the record in capi/abi, which the tests of the
//! library compare with the header and the library.
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

#[rustfmt::skip]
#[allow(clippy::wildcard_imports)]
mod generated;

/// Name, size, and fields: name, offset, size.
#[derive(Debug, PartialEq)]
pub struct Struct(String, usize, Vec<(String, usize, usize)>);

/// What Rust makes of a struct.
macro_rules! layout_of {
    ($name:ident: $($field:ident),*) => {{
        let value = core::mem::MaybeUninit::<$name>::uninit();
        let start = value.as_ptr();
        $crate::Struct(
            stringify!($name).into(),
            core::mem::size_of::<$name>(),
            vec![$({
                // SAFETY: nothing is read; the pointer stays inside of the value.
                let field = unsafe { core::ptr::addr_of!((*start).$field) };
                (stringify!($field).into(), field as usize - start as usize, $crate::size_behind(field))
            }),*],
        )
    }};
}

pub(crate) use layout_of;

pub fn size_behind<T>(_: *const T) -> usize {
    core::mem::size_of::<T>()
}

fn record(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../capi/abi").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Lines "kind name value" of the record.
fn recorded(kind: &str) -> BTreeMap<String, i64> {
    record("layout.txt")
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words[0] == kind)
        .map(|words| (words[1].to_string(), words[2].parse().unwrap()))
        .collect()
}

#[test]
fn structs_lie_as_in_c() {
    let mut expected: Vec<Struct> = Vec::new();
    for line in record("layout.txt").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (line.starts_with(' '), words[0]) {
            (true, field) => {
                let [offset, size] = [1, 2].map(|i| words[i].parse().unwrap());
                expected.last_mut().unwrap().2.push((field.into(), offset, size));
            }
            (_, "struct") => {
                expected.push(Struct(words[1].into(), words[2].parse().unwrap(), vec![]))
            }
            _ => {}
        }
    }
    assert!(expected.len() >= 7);
    assert_eq!(generated::structs(), expected);
}

#[test]
fn constants_are_those_of_c() {
    let expected = recorded("constant");
    let mut found: BTreeMap<String, i64> =
        generated::constants().into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    // The record leaves the version out; it is that of the crate.
    let version = ["MAJOR", "MINOR", "PATCH"]
        .map(|part| found.remove(&format!("KVG_VERSION_{part}")).unwrap().to_string())
        .join(".");
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    assert_eq!(found, expected);
}

#[test]
fn scalars_have_the_width_of_c() {
    let found: BTreeMap<String, i64> =
        generated::scalars().into_iter().map(|(n, size)| (n.to_string(), size as i64)).collect();
    assert_eq!(found, recorded("scalar"));
}

#[test]
fn functions_are_those_that_the_library_exports() {
    let declared: BTreeSet<&str> = kvgear_sys::FUNCTIONS.iter().copied().collect();
    assert_eq!(declared.len(), kvgear_sys::FUNCTIONS.len());
    let record = record("symbols.txt");
    assert_eq!(declared, record.lines().collect());
}

#[test]
fn the_library_serves_this_version() {
    kvgear_sys::load().unwrap();
    // SAFETY: gives a static string.
    let version = unsafe { std::ffi::CStr::from_ptr(kvgear_sys::kvg_version_string()) };
    assert_eq!(version.to_str().unwrap(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn init_functions_agree_on_the_size_of_structs() {
    kvgear_sys::load().unwrap();
    macro_rules! check {
        ($($name:ident $init:ident)*) => {$({
            let mut value = core::mem::MaybeUninit::<kvgear_sys::$name>::zeroed();
            // SAFETY: numbers and pointers only, for which zeroes are values.
            let value = unsafe {
                kvgear_sys::$init(value.as_mut_ptr());
                value.assume_init()
            };
            assert_eq!(value.struct_size as usize, core::mem::size_of_val(&value));
        })*};
    }
    check! {
        kvg_allocator kvg_allocator_init
        kvg_runtime_options kvg_runtime_options_init
        kvg_shape kvg_shape_init
        kvg_append_desc kvg_append_desc_init
        kvg_attend_desc kvg_attend_desc_init
        kvg_stats kvg_stats_init
    }
}
