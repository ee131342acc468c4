//! Is every function of the C interface to be had from safe Rust?
use std::fs;
use std::path::PathBuf;

/// Functions without a safe form, of the list that all bindings share; each with its reason.
fn left_out() -> Vec<(String, String)> {
    let list = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../swig/left_out.txt");
    let list = fs::read_to_string(list).unwrap();
    let mine = list.lines().filter_map(|line| line.strip_prefix("rust "));
    let pair = |line: &str| line.split_once(' ').map(|(name, why)| (name.into(), why.into()));
    mine.map(|line| pair(line).unwrap_or_else(|| panic!("no reason: {line}"))).collect()
}

fn sources() -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    fs::read_dir(folder).unwrap().map(|f| fs::read_to_string(f.unwrap().path()).unwrap()).collect()
}

#[test]
fn every_function_is_used_or_left_out_on_purpose() {
    let (sources, left_out) = (sources(), left_out());
    let is_used = |name: &str| sources.contains(&format!("sys::{name}("));
    let missing: Vec<_> = kvgear_sys::FUNCTIONS
        .iter()
        .filter(|name| !is_used(name) && !left_out.iter().any(|(left_out, _)| left_out == *name))
        .collect();
    assert!(missing.is_empty(), "functions of kvgear.h without a safe form: {missing:?}");
    for (name, _) in &left_out {
        assert!(kvgear_sys::FUNCTIONS.contains(&name.as_str()), "{name} is no longer there");
        assert!(!is_used(name), "{name} is not left out any more");
    }
}
