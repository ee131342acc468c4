//! Where the library is looked for at run time, and what is said when it is not fit. There is one library
//! for a process, so each case runs this program again as a child.
#![cfg(feature = "dlopen")]
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kvgear_sys::{LoadError, KVG_ABI_VERSION};

/// The library that the tests use.
fn library() -> PathBuf {
    let in_tree =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../build/dev/capi/libkvgear.so");
    let path = env::var_os("KVGEAR_LIBRARY").map_or(in_tree, PathBuf::from);
    path.canonicalize().unwrap_or_else(|e| panic!("set KVGEAR_LIBRARY to libkvgear.so: {e}"))
}

/// An empty folder for a case.
fn folder(case: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dlopen").join(case);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// What the child prints: what it loaded, or why not.
struct Child(Command);

impl Child {
    fn new(program: &Path) -> Self {
        let mut command = Command::new(program);
        command.args(["--exact", "child", "--ignored", "--nocapture"]);
        for name in ["KVGEAR_LIBRARY", "LD_LIBRARY_PATH", "EXPLICIT", "EXPLICIT_2", "NO_LOAD"] {
            command.env_remove(name);
        }
        Self(command)
    }

    fn this() -> Self {
        Self::new(&env::current_exe().unwrap())
    }

    fn set(mut self, name: &str, value: impl AsRef<Path>) -> Self {
        self.0.env(name, value.as_ref());
        self
    }

    fn says(mut self) -> String {
        let output = self.0.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let said = text.split("[[").nth(1).and_then(|rest| rest.split("]]").next());
        said.unwrap_or_else(|| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)))
            .to_string()
    }
}

#[test]
#[ignore = "the other tests run it"]
fn child() {
    if env::var_os("NO_LOAD").is_some() {
        // SAFETY: it panics before anything is called.
        let result = std::panic::catch_unwind(|| unsafe { kvgear_sys::kvg_abi_version() });
        let payload = result.unwrap_err();
        return println!("[[{}]]", payload.downcast_ref::<&str>().unwrap());
    }
    let explicit = |name| match env::var_os(name) {
        Some(path) => kvgear_sys::load_from(path),
        None => Ok(()),
    };
    let result = explicit("EXPLICIT")
        .and_then(|()| explicit("EXPLICIT_2"))
        .and_then(|()| kvgear_sys::load());
    match result {
        Ok(()) => {
            // SAFETY: gives a number.
            assert!(unsafe { kvgear_sys::kvg_abi_version() } >= KVG_ABI_VERSION);
            println!("[[{}]]", kvgear_sys::loaded_path().unwrap().display());
        }
        Err(error) => {
            let name = format!("{error:?}");
            println!("[[{}: {error}]]", name.split([' ', '(', '{']).next().unwrap());
        }
    }
}

/// A library with the given functions, each of which gives a number.
fn fake(case: &str, functions: &[(&str, u32)]) -> PathBuf {
    let (source, out) = (folder(case).join("fake.rs"), folder(case).join("fake.so"));
    let body: String = functions
        .iter()
        .map(|(name, value)| {
            format!("#[no_mangle] pub extern \"C\" fn {name}() -> u32 {{ {value} }}\n")
        })
        .collect();
    fs::write(&source, body).unwrap();
    let rustc = env::var_os("RUSTC").unwrap_or("rustc".into());
    let status =
        Command::new(rustc).args(["--crate-type=cdylib", "-o"]).arg(&out).arg(&source).status();
    assert!(status.unwrap().success());
    out
}

#[test]
fn a_path_comes_before_the_environment() {
    let elsewhere = folder("explicit").join("mine.so");
    fs::copy(library(), &elsewhere).unwrap();
    let child = || Child::this().set("KVGEAR_LIBRARY", library());
    assert_eq!(child().set("EXPLICIT", &elsewhere).says(), elsewhere.display().to_string());
    let said = child().set("EXPLICIT", "/nowhere/libkvgear.so").says();
    assert!(said.starts_with("CannotOpen: /nowhere/libkvgear.so cannot be loaded: "), "{said}");
}

#[test]
fn the_environment_comes_before_all_places() {
    assert_eq!(
        Child::this().set("KVGEAR_LIBRARY", library()).says(),
        library().display().to_string()
    );
    let there = library();
    let said = Child::this()
        .set("KVGEAR_LIBRARY", "/nowhere/x.so")
        .set("LD_LIBRARY_PATH", there.parent().unwrap())
        .says();
    assert!(said.starts_with("CannotOpen: /nowhere/x.so"), "{said}");
}

#[test]
fn beside_the_executable_comes_before_the_system() {
    let root = folder("beside");
    let program = root.join("bin").join("program");
    fs::create_dir(root.join("bin")).unwrap();
    fs::create_dir(root.join("lib")).unwrap();
    fs::copy(env::current_exe().unwrap(), &program).unwrap();
    let child = || Child::new(&program).set("LD_LIBRARY_PATH", library().parent().unwrap());
    assert_eq!(child().says(), "libkvgear.so.0"); // the system's
    fs::copy(library(), root.join("lib/libkvgear.so.0")).unwrap();
    assert_eq!(child().says(), root.join("lib/libkvgear.so.0").display().to_string());
    fs::copy(library(), root.join("bin/libkvgear.so")).unwrap();
    assert_eq!(child().says(), root.join("bin/libkvgear.so").display().to_string());
    fs::write(root.join("bin/libkvgear.so"), "no library").unwrap();
    assert_eq!(child().says(), root.join("lib/libkvgear.so.0").display().to_string());
}

#[test]
fn nowhere_says_what_was_tried() {
    let said = Child::this().says();
    if said.starts_with("libkvgear.so") {
        return eprintln!("not tested: this system has kvgear installed");
    }
    for words in ["NotFound: libkvgear was not found; set KVGEAR_LIBRARY", "libkvgear.so.0 ("] {
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn one_library_for_a_process() {
    let other = folder("other").join("other.so");
    fs::copy(library(), &other).unwrap();
    let child = || Child::this().set("EXPLICIT", library());
    assert_eq!(child().set("EXPLICIT_2", library()).says(), library().display().to_string());
    let said = child().set("EXPLICIT_2", other).says();
    assert!(said.starts_with("AlreadyLoaded: ") && said.contains("in use already"), "{said}");
}

#[test]
fn libraries_of_other_versions_are_refused() {
    let newer = KVG_ABI_VERSION + 1;
    let library = fake("newer", &[("kvg_abi_min", newer), ("kvg_abi_version", newer + 2)]);
    let said = Child::this().set("KVGEAR_LIBRARY", library).says();
    let words = "Version: libkvgear serves the ABI versions 2 to 4, but this program needs 1; install an older";
    assert!(said.starts_with(words), "{said}");
}

#[test]
fn libraries_that_lack_functions_are_refused() {
    let library = fake("lacking", &[("kvg_abi_min", 1), ("kvg_abi_version", KVG_ABI_VERSION)]);
    let said = Child::this().set("EXPLICIT", library).says();
    assert!(said.starts_with("MissingSymbol: ") && said.contains("it has no kvg_"), "{said}");
    let said = Child::this().set("EXPLICIT", fake("other_thing", &[("something", 1)])).says();
    assert!(said.ends_with("is no usable libkvgear: it has no kvg_abi_min"), "{said}");
}

#[test]
fn calls_before_loading_say_so() {
    let said = Child::this().set("NO_LOAD", "1").says();
    assert!(said.contains("was called before kvgear_sys::load() succeeded"), "{said}");
}

#[test]
fn errors_are_values() {
    let missing = kvgear_sys::load_from("/nowhere/at/all.so").unwrap_err();
    assert!(matches!(&missing, LoadError::CannotOpen { path, .. } if path.ends_with("all.so")));
    assert_eq!(missing.clone(), missing);
}
