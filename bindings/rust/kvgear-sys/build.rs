//! Finds libkvgear to link: `KVGEAR_LIB_DIR`, else the build of the tree that this crate lies in, else
//! pkg-config. With the feature `dlopen` nothing is linked.
use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=KVGEAR_LIB_DIR");
    println!("cargo:rerun-if-env-changed=DOCS_RS");
    if env::var_os("CARGO_FEATURE_DLOPEN").is_some() || env::var_os("DOCS_RS").is_some() {
        return;
    }
    if let Some(dir) = env::var_os("KVGEAR_LIB_DIR") {
        return link(&PathBuf::from(dir));
    }
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let tree = manifest.join("../../../build/dev/capi");
    if tree.join("libkvgear.so").exists() {
        return link(&tree);
    }
    match pkg_config::Config::new().atleast_version("0.1").probe("kvgear") {
        Ok(found) => {
            if let Some(dir) = found.link_paths.first() {
                println!("cargo:libdir={}", dir.display());
            }
        }
        Err(reason) => {
            eprintln!(
                "libkvgear was not found. Install kvgear so that pkg-config knows it, or set \
                 KVGEAR_LIB_DIR to the folder of libkvgear.so, or use the feature `dlopen`, which \
                 needs no library to build.\n{reason}"
            );
            std::process::exit(1);
        }
    }
}

fn link(dir: &Path) {
    let dir = dir.canonicalize().unwrap_or_else(|reason| {
        eprintln!("KVGEAR_LIB_DIR is {}: {reason}", dir.display());
        std::process::exit(1);
    });
    println!("cargo:rustc-link-search=native={}", dir.display());
    println!("cargo:rustc-link-lib=dylib=kvgear");
    // So that tests and examples of this crate find what they were linked with. Crates that depend on
    // this one read the folder from DEP_KVGEAR_LIBDIR.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", dir.display());
    println!("cargo:libdir={}", dir.display());
}
