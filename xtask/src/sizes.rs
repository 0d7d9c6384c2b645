//! Keeps files and functions small enough to be read in one go.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::source::{blank_non_code, functions, test_modules, tokens};

/// Lines of a file, its tests not counted.
const FILE_LIMIT: usize = 600;
/// Lines of a function.
const FUNCTION_LIMIT: usize = 60;
/// Lines of a function in tests.
const TEST_FUNCTION_LIMIT: usize = 80;
/// What a file says on its first line to be exempt.
const EXEMPTION: &str = "data table";

/// A file or a function with its length.
struct Sized {
    what: String,
    lines: usize,
    limit: usize,
}

/// Fails if a file or function of the repository at `root` is longer than its limit.
pub fn check(root: &Path) -> Result<()> {
    let mut sized = Vec::new();
    for path in source_files(root)? {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        measure(&name, &text, &mut sized);
    }
    sized.sort_by_key(|entry| std::cmp::Reverse(entry.lines * FILE_LIMIT / entry.limit));
    let over: Vec<&Sized> = sized.iter().filter(|entry| entry.lines > entry.limit).collect();
    if over.is_empty() {
        println!("{} files and functions; nearest their limits:\n{}", sized.len(), list(&sized));
        return Ok(());
    }
    bail!("too long to read in one go; split them:\n{}", list(over))
}

fn list<'a>(sized: impl IntoIterator<Item = &'a Sized>) -> String {
    let mut text = String::new();
    for entry in sized.into_iter().take(5) {
        let _ = writeln!(text, "  {}: {} of {} lines", entry.what, entry.lines, entry.limit);
    }
    text.trim_end().to_owned()
}

/// Adds the lengths of one file and its functions.
fn measure(name: &str, text: &str, sized: &mut Vec<Sized>) {
    let first = text.lines().next().unwrap_or_default().to_lowercase();
    if first.contains(EXEMPTION) {
        return;
    }
    let in_tests = is_test_file(Path::new(name));
    if !name.ends_with(".rs") {
        let lines = text.lines().count();
        sized.push(Sized { what: name.to_owned(), lines, limit: FILE_LIMIT });
        return;
    }
    let code = blank_non_code(text);
    let tokens = tokens(&code);
    let tests: Vec<_> = test_modules(&tokens)
        .iter()
        .map(|range| tokens[range.start].line..tokens[range.end - 1].line + 1)
        .collect();
    if !in_tests {
        let test_lines: usize = tests.iter().map(ExactSizeIterator::len).sum();
        let lines = text.lines().count() - test_lines;
        sized.push(Sized { what: name.to_owned(), lines, limit: FILE_LIMIT });
    }
    for function in functions(&tokens) {
        let tested = in_tests || tests.iter().any(|lines| lines.contains(&function.lines.start));
        sized.push(Sized {
            what: format!("{name}:{} {}", function.lines.start, function.name),
            lines: function.lines.len(),
            limit: if tested { TEST_FUNCTION_LIMIT } else { FUNCTION_LIMIT },
        });
    }
}

/// Whether a file holds only tests: `tests.rs`, or anything under a `tests` folder.
pub fn is_test_file(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests")
        || path.components().any(|part| part.as_os_str() == "tests")
}

/// Every Rust and Python file that is ours, sorted.
fn source_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for folder in ["crates", "xtask", "fuzz", "benches", "tests", "python"] {
        let folder = root.join(folder);
        if folder.is_dir() {
            walk(&folder, &["rs", "py"], &mut files)?;
        }
    }
    files.sort();
    Ok(files)
}

/// Adds the files below `folder` that end in one of `extensions`, build outputs left out.
pub fn walk(folder: &Path, extensions: &[&str], files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            let built = name == "target" || name == "__pycache__";
            if !built && !name.to_string_lossy().starts_with('.') {
                walk(&path, extensions, files)?;
            }
        } else if path.extension().is_some_and(|e| extensions.iter().any(|&wanted| e == wanted)) {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(name: &str, text: &str) -> Vec<String> {
        let mut sized = Vec::new();
        measure(name, text, &mut sized);
        sized.into_iter().filter(|e| e.lines > e.limit).map(|e| e.what).collect()
    }

    fn function(lines: usize) -> String {
        format!("fn f() {{\n{}}}\n", "    a();\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_one_line_over_its_limit_is_reported() {
        assert!(over("crates/a/src/lib.rs", &function(FUNCTION_LIMIT)).is_empty());
        let reported = over("crates/a/src/lib.rs", &function(FUNCTION_LIMIT + 1));
        assert_eq!(reported, ["crates/a/src/lib.rs:1 f"]);
    }

    #[test]
    fn tests_may_be_longer_but_not_without_end() {
        let module = |lines| format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function(lines));
        assert!(over("crates/a/src/lib.rs", &module(TEST_FUNCTION_LIMIT)).is_empty());
        assert_eq!(over("crates/a/src/lib.rs", &module(TEST_FUNCTION_LIMIT + 1)).len(), 1);
        assert_eq!(over("crates/a/src/x/tests.rs", &function(TEST_FUNCTION_LIMIT + 1)).len(), 1);
    }

    #[test]
    fn a_file_is_counted_without_its_tests() {
        let code = "const A: u8 = 1;\n".repeat(FILE_LIMIT);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "use a;\n".repeat(100));
        assert!(over("crates/a/src/lib.rs", &format!("{code}{tests}")).is_empty());
        let reported = over("crates/a/src/lib.rs", &format!("{code}const B: u8 = 1;\n{tests}"));
        assert_eq!(reported, ["crates/a/src/lib.rs"]);
    }

    #[test]
    fn a_data_table_that_says_so_is_exempt() {
        let table = format!("// Data table: GPUs.\n{}", "const A: u8 = 1;\n".repeat(FILE_LIMIT));
        assert!(over("crates/a/src/gpus.rs", &table).is_empty());
    }
}
