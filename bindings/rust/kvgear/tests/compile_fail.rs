//! What the compiler must refuse: the programs in compile_fail/. A line that must not compile ends in
//! `//~ CODE`; there may be no other errors. A program without such a line must compile.
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A package in the target folder that has each case as a program.
fn package(cases: &[PathBuf]) -> PathBuf {
    let crate_folder = env!("CARGO_MANIFEST_DIR");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compile_fail");
    fs::create_dir_all(folder.join("src")).unwrap();
    let mut manifest = format!(
        "[package]\nname = \"cases\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n\
         [dependencies]\nkvgear = {{ path = {crate_folder:?}, features = [\"dlopen\"] }}\n"
    );
    for case in cases {
        let name = case.file_stem().unwrap().to_str().unwrap();
        manifest += &format!("[[bin]]\nname = {name:?}\npath = {case:?}\n");
    }
    fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    // The versions of this workspace, so that nothing has to be looked up.
    fs::copy(Path::new(crate_folder).join("../Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    folder
}

/// (line, code) of each `//~ CODE`.
fn expected(case: &Path) -> BTreeSet<(usize, String)> {
    let text = fs::read_to_string(case).unwrap();
    let marked = |(number, line): (usize, &str)| {
        line.split_once("//~ ").map(|(_, code)| (number + 1, code.trim().to_string()))
    };
    text.lines().enumerate().filter_map(marked).collect()
}

/// (line, code) of each error that the compiler reports in the file: "error[E0597]: ..." and, on the next
/// line, "  --> FILE:LINE:COLUMN".
fn found(output: &str, case: &Path) -> BTreeSet<(usize, String)> {
    let mut code = None;
    let mut errors = BTreeSet::new();
    for line in output.lines() {
        if let Some(rest) = line.strip_prefix("error") {
            code = Some(rest.split(['[', ']']).nth(1).unwrap_or("").to_string());
        } else if let Some(place) = line.trim_start().strip_prefix("--> ") {
            let mut parts = place.rsplitn(3, ':');
            let (line, file) = (parts.nth(1), parts.next());
            if let (Some(line), Some(file), Some(code)) = (line, file, code.take()) {
                if file.ends_with(case.file_name().unwrap().to_str().unwrap()) {
                    errors.insert((line.parse().unwrap(), code));
                }
            }
        }
    }
    errors
}

#[test]
fn the_compiler_refuses_what_it_must() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile_fail");
    let mut cases: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 13);
    let package = package(&cases);
    for case in &cases {
        let name = case.file_stem().unwrap().to_str().unwrap();
        let output = Command::new(env!("CARGO"))
            .args(["check", "--offline", "--quiet", "--color=never", "--bin", name])
            .env("CARGO_TARGET_DIR", package.join("target"))
            .current_dir(&package)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        let expected = expected(case);
        assert_eq!(output.status.success(), expected.is_empty(), "{name}\n{text}");
        assert_eq!(found(&text, case), expected, "{name}\n{text}");
    }
}
