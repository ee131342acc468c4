//! Is every function of the C interface to be had from safe Rust?
use std::fs;
use std::path::PathBuf;

/// Functions without a safe form, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "kvg_allocator_init",
        "an allocator must keep C's rules on sizes and threads, which no safe signature can promise",
    ),
    ("kvg_save_desc_init", "everything is saved"),
    ("kvg_load_desc_init", "everything is read and checked"),
    ("kvg_cache_save_stream", "a saved cache is a file or a vector"),
    ("kvg_cache_load_stream", "as above"),
    ("kvg_cache_extend_stream", "as above"),
];

fn sources() -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    fs::read_dir(folder).unwrap().map(|f| fs::read_to_string(f.unwrap().path()).unwrap()).collect()
}

#[test]
fn every_function_is_used_or_left_out_on_purpose() {
    let sources = sources();
    let is_used = |name: &str| sources.contains(&format!("sys::{name}("));
    let missing: Vec<_> = kvgear_sys::FUNCTIONS
        .iter()
        .filter(|name| !is_used(name) && !LEFT_OUT.iter().any(|(left_out, _)| left_out == *name))
        .collect();
    assert!(missing.is_empty(), "functions of kvgear.h without a safe form: {missing:?}");
    for (name, _) in LEFT_OUT {
        assert!(kvgear_sys::FUNCTIONS.contains(name), "{name} is no longer there");
        assert!(!is_used(name), "{name} is not left out any more");
    }
}
