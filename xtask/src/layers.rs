//! Keeps the workspace's direction: who may depend on whom, who may touch the system, who may be
//! unsafe.
//!
//! The tables below are the rule; a crate that is missing from them fails the check, so that adding
//! one is a decision.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process;
use crate::sizes::{is_test_file, walk};
use crate::source::{Token, blank_non_code, test_modules, tokens};

/// Which workspace crates a crate may depend on, development dependencies other than [`FIXTURES`] included.
///
const ALLOWED: &[(&str, &[&str])] = &[
    ("overflowml-types", &[]),
    ("overflowml-formats", &["overflowml-types"]),
    ("overflowml-hardware", &["overflowml-types"]),
    ("overflowml-plan", &["overflowml-types"]),
    ("overflowml-stream", &["overflowml-types", "overflowml-plan"]),
    ("overflowml-exec", &["overflowml-types", "overflowml-stream"]),
    (
        "overflowml",
        &[
            "overflowml-types",
            "overflowml-formats",
            "overflowml-hardware",
            "overflowml-plan",
            "overflowml-stream",
            "overflowml-exec",
        ],
    ),
    ("overflowml-cli", &["overflowml"]),
    ("overflowml-python", &["overflowml", "overflowml-cli"]),
    ("xtask", &[]),
];

/// Whose fixtures the tests of crates that run models may use.
const FIXTURES: (&str, &[&str]) = ("overflowml-formats", &["overflowml-stream", "overflowml-exec"]);

/// The only places where `unsafe` may be written: SIMD kernels, aligned buffers and I/O, the calls
/// into a GPU driver's library, and handing memory to Python.
const UNSAFE_ALLOWED: &[&str] = &[
    "crates/overflowml-stream/",
    "crates/overflowml-exec/",
    "crates/overflowml-hardware/src/cuda",
    "crates/overflowml-python/src/dlpack.rs",
];

/// Crates whose root must say `#![forbid(unsafe_code)]`.
const FORBID_UNSAFE: &[&str] =
    &["overflowml-types", "overflowml-formats", "overflowml-plan", "overflowml", "overflowml-cli"];

/// Crates that decide or parse, and so must not reach the operating system.
const PURE: &[&str] = &["overflowml-types", "overflowml-formats", "overflowml-plan"];

/// The files of pure crates that may reach it: the shell that reads what the parsers parse.
const SHELLS: &[&str] =
    &["crates/overflowml-formats/src/disk.rs", "crates/overflowml-formats/src/fixture.rs"];

/// What pure crates may depend on from outside; none of it reaches the system.
const PURE_DEPENDENCIES: &[&str] = &["serde", "serde_json", "thiserror", "toml"];

/// Modules of `std` that reach the operating system.
const SYSTEM_MODULES: &[&str] = &["env", "fs", "net", "os", "process", "thread", "time"];

/// Methods of `std::path::Path` that do.
const SYSTEM_METHODS: &[&str] = &[
    "canonicalize",
    "exists",
    "is_dir",
    "is_file",
    "is_symlink",
    "metadata",
    "read_dir",
    "read_link",
    "symlink_metadata",
    "try_exists",
];

/// Fails if any of the rules above is broken in the workspace at `root`.
pub fn check(root: &Path) -> Result<()> {
    let metadata = process::metadata(root, &["--no-deps"])?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut broken = Vec::new();
    for package in packages {
        check_edges(package, &mut broken);
    }
    check_sources(root, &mut broken)?;
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    println!("{} crates, no edge, unsafe block or system call out of place", packages.len());
    check_wasm(root)
}

fn check_edges(package: &Value, broken: &mut Vec<String>) {
    let name = package["name"].as_str().unwrap_or_default();
    let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
        broken.push(format!(
            "crate `{name}` has no place in the layers: add it to xtask/src/layers.rs"
        ));
        return;
    };
    let ours = |dependency: &str| ALLOWED.iter().any(|(known, _)| *known == dependency);
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let to = dependency["name"].as_str().unwrap_or_default();
        let for_tests = dependency["kind"] == "dev";
        let fixtures = for_tests && to == FIXTURES.0 && FIXTURES.1.contains(&name);
        if ours(to) && !allowed.contains(&to) && !fixtures {
            broken.push(format!("`{name}` must not depend on `{to}`: it may see only {allowed:?}"));
        }
        if !ours(to) && !for_tests && PURE.contains(&name) && !PURE_DEPENDENCIES.contains(&to) {
            broken.push(format!("`{name}` is pure and must not depend on `{to}`"));
        }
    }
}

fn check_sources(root: &Path, broken: &mut Vec<String>) -> Result<()> {
    for (name, _) in ALLOWED {
        let folder = format!("crates/{name}");
        let mut files = Vec::new();
        if root.join(&folder).is_dir() {
            walk(&root.join(&folder), &["rs"], &mut files)?;
            check_forbids(root, name, broken)?;
        }
        for path in files {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let file = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            check_file(name, &file, &text, broken);
        }
    }
    Ok(())
}

fn check_forbids(root: &Path, name: &str, broken: &mut Vec<String>) -> Result<()> {
    if !FORBID_UNSAFE.contains(&name) {
        return Ok(());
    }
    let source = root.join(format!("crates/{name}/src"));
    let entry =
        ["lib.rs", "main.rs"].map(|file| source.join(file)).into_iter().find(|f| f.is_file());
    let entry = entry.with_context(|| format!("crate `{name}` has neither lib.rs nor main.rs"))?;
    if !fs::read_to_string(&entry)?.contains("\n#![forbid(unsafe_code)]\n") {
        broken.push(format!("crates/{name}: the crate's root lacks `#![forbid(unsafe_code)]`"));
    }
    Ok(())
}

/// Checks one source file of `crate_name` for `unsafe` and for ways to the system.
fn check_file(crate_name: &str, file: &str, text: &str, broken: &mut Vec<String>) {
    let under = |places: &[&str]| places.iter().any(|place| file.starts_with(place));
    let code = blank_non_code(text);
    let all = tokens(&code);
    if !under(UNSAFE_ALLOWED) {
        for token in all.iter().filter(|token| token.text == "unsafe") {
            broken.push(format!("{file}:{}: `unsafe` is not allowed here", token.line));
        }
    }
    if PURE.contains(&crate_name) && !under(SHELLS) && !is_test_file(Path::new(file)) {
        for (line, what) in system_uses(&all) {
            broken.push(format!("{file}:{line}: `{what}` reaches the system from a pure crate"));
        }
    }
}

/// Uses of the operating system outside test modules, with their lines.
fn system_uses(all: &[Token<'_>]) -> Vec<(usize, String)> {
    let tests = test_modules(all);
    let mut found = Vec::new();
    for at in (0..all.len()).filter(|at| !tests.iter().any(|range| range.contains(at))) {
        let text = |ahead: usize| all.get(at + ahead).map_or("", |token| token.text);
        let root = matches!(text(0), "std" | "core") && text(1) == ":" && text(2) == ":";
        let heads = match text(3) {
            "{" if root => group_heads(&all[at + 4..]),
            _ if root => vec![&all[at + 3..]],
            _ => Vec::new(),
        };
        for path in heads.into_iter().filter(|path| reaches_system(path)) {
            found.push((all[at].line, format!("std::{}", path[0].text)));
        }
        if text(0) == "." && SYSTEM_METHODS.contains(&text(1)) && text(2) == "(" {
            found.push((all[at].line, format!(".{}()", text(1))));
        }
    }
    found
}

/// Whether a path below `std`, given by its tokens, is a way to the system; a duration is not.
fn reaches_system(path: &[Token<'_>]) -> bool {
    let text = |at: usize| path.get(at).map_or("", |token| token.text);
    SYSTEM_MODULES.contains(&text(0)) && (text(0), text(3)) != ("time", "Duration")
}

/// The paths in `use std::{…}`, given the tokens after its brace; each goes on to the end.
fn group_heads<'a, 'b>(tokens: &'b [Token<'a>]) -> Vec<&'b [Token<'a>]> {
    let (mut depth, mut expected, mut heads) = (1_usize, true, Vec::new());
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => expected = true,
            _ if depth == 1 && expected => {
                heads.push(&tokens[at..]);
                expected = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

/// Builds the pure crates for a target without an operating system, where it is installed.
fn check_wasm(root: &Path) -> Result<()> {
    const TARGET: &str = "wasm32-unknown-unknown";
    let libraries =
        process::capture(process::rustc().args(["--print", "target-libdir", "--target", TARGET]))?;
    if !Path::new(libraries.trim()).is_dir() {
        println!("{TARGET} is not installed: checked the sources instead of building for it");
        return Ok(());
    }
    let mut cargo = process::cargo(root);
    cargo.args(["check", "--quiet", "--target", TARGET]);
    for name in PURE {
        cargo.args(["--package", name]);
    }
    process::run(&mut cargo)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn edges(package: &Value) -> Vec<String> {
        let mut broken = Vec::new();
        check_edges(package, &mut broken);
        broken
    }

    fn file(crate_name: &str, path: &str, text: &str) -> Vec<String> {
        let mut broken = Vec::new();
        check_file(crate_name, path, text, &mut broken);
        broken
    }

    #[test]
    fn an_edge_against_the_direction_is_broken() {
        let down =
            json!({"name": "overflowml-plan", "dependencies": [{"name": "overflowml-types"}]});
        assert!(edges(&down).is_empty());
        let up = json!({"name": "overflowml-types", "dependencies": [{"name": "overflowml-plan"}]});
        assert_eq!(edges(&up).len(), 1);
    }

    #[test]
    fn a_crate_without_a_place_is_broken() {
        assert_eq!(edges(&json!({"name": "overflowml-utils", "dependencies": []})).len(), 1);
    }

    #[test]
    fn a_pure_crate_may_use_a_system_crate_only_in_tests() {
        let with = |kind: Value| json!({"name": "overflowml-plan", "dependencies": [{"name": "rustix", "kind": kind}]});
        assert_eq!(edges(&with(Value::Null)).len(), 1);
        assert!(edges(&with(json!("dev"))).is_empty());
    }

    #[test]
    fn unsafe_is_found_outside_its_places_but_not_in_words_about_it() {
        let text = "#![forbid(unsafe_code)]\n// unsafe\nfn f() { unsafe { g() } }\n";
        assert_eq!(
            file("overflowml", "crates/overflowml/src/a.rs", text),
            ["crates/overflowml/src/a.rs:3: `unsafe` is not allowed here"]
        );
        assert!(file("overflowml-exec", "crates/overflowml-exec/src/a.rs", text).is_empty());
    }

    #[test]
    fn every_way_of_naming_a_system_module_is_found() {
        let ways = [
            "use std::fs;",
            "use std::{fmt, fs::File};",
            "use std::{fmt::{self, Write}, time};",
            "fn f() { std::env::var(\"A\"); }",
            "fn f(p: &Path) -> bool { p.exists() }",
        ];
        for text in ways {
            let broken = file("overflowml-plan", "crates/overflowml-plan/src/a.rs", text);
            assert_eq!(broken.len(), 1, "{text}: {broken:?}");
        }
        let pure = "use std::{fmt, path::Path, time::Duration};\nfn f(d: std::time::Duration) {}\n#[cfg(test)]\nmod tests { use std::fs; }";
        assert!(file("overflowml-plan", "crates/overflowml-plan/src/a.rs", pure).is_empty());
    }

    #[test]
    fn the_shell_around_the_parsers_may_read_files() {
        let text = "use std::fs;";
        assert!(
            file("overflowml-formats", "crates/overflowml-formats/src/disk.rs", text).is_empty()
        );
        assert_eq!(file("overflowml-formats", "crates/overflowml-formats/src/x.rs", text).len(), 1);
    }
}
