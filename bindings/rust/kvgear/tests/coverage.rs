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
    // Batches and the selection of tokens: no safe form has been written yet.
    ("kvg_cache_append_at", "not yet"),
    ("kvg_cache_attend_batch", "not yet"),
    ("kvg_cache_attend_observe", "not yet"),
    ("kvg_cache_bits", "not yet"),
    ("kvg_cache_next_tokens", "not yet"),
    ("kvg_cache_observe", "not yet"),
    ("kvg_cache_positions", "not yet"),
    ("kvg_cache_probe", "not yet"),
    ("kvg_cache_probe_positions", "not yet"),
    ("kvg_policy_count", "not yet"),
    ("kvg_policy_name", "not yet"),
    ("kvg_policy_summary", "not yet"),
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
