//! `cargo xtask test`: everything a change has to pass, in the order in which it fails fastest.
//!
//! Every build uses one target folder and unchanged compiler flags, so that nothing is compiled
//! twice in the same mode.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::{layers, licences, process, python, sizes};

/// A named part of the test command.
struct Step {
    name: &'static str,
    what: &'static str,
    run: fn(&Path) -> Result<Outcome>,
}

/// How a step ended, if it did not fail.
enum Outcome {
    Passed,
    Skipped(String),
}

const STEPS: &[Step] = &[
    Step { name: "format", what: "rustfmt changes nothing", run: format },
    Step { name: "sizes", what: "files and functions are short", run: |r| passed(sizes::check(r)) },
    Step { name: "layers", what: "crates keep their direction", run: |r| passed(layers::check(r)) },
    Step { name: "deny", what: "licences and sources of dependencies", run: deny },
    Step { name: "clippy", what: "no compiler or clippy warning", run: clippy },
    Step { name: "docs", what: "the documentation builds without a warning", run: docs },
    Step { name: "rust", what: "all Rust tests", run: rust_tests },
    Step { name: "release", what: "the command builds for release", run: release },
    Step {
        name: "oracle",
        what: "Python: against transformers, budgets, the command",
        run: oracle,
    },
    Step { name: "wheel", what: "the Python package builds and installs", run: wheel },
    Step { name: "python", what: "Python: the package", run: python_tests },
];

/// The steps that need an interpreter and packages.
const PYTHON_STEPS: [&str; 3] = ["oracle", "wheel", "python"];

/// What the arguments ask for.
struct Selection {
    only: Vec<String>,
    without: Vec<String>,
    fail_fast: bool,
}

/// Runs the steps that `arguments` select; the exit code says whether all passed.
pub fn run(arguments: &[String]) -> Result<ExitCode> {
    let Some(selection) = parse(arguments)? else {
        print!("{}", help());
        return Ok(ExitCode::SUCCESS);
    };
    let root = process::root()?;
    let start = Instant::now();
    let mut lines = Vec::new();
    let mut failed = 0;
    for step in STEPS.iter().filter(|step| selection.wants(step.name)) {
        let (line, fine) = run_step(step, &root);
        lines.push(line);
        failed += usize::from(!fine);
        if !fine && selection.fail_fast {
            break;
        }
    }
    println!("\n==== summary\n{}", lines.join("\n"));
    let verdict = if failed == 0 { "passed" } else { "FAILED" };
    println!("xtask test: {verdict}, {} steps, {failed} failed, {}", lines.len(), took(start));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one step; returns its closing line and whether it did not fail.
fn run_step(step: &Step, root: &Path) -> (String, bool) {
    println!("\n==== {}: {}", step.name, step.what);
    let start = Instant::now();
    let (verdict, fine) = match (step.run)(root) {
        Ok(Outcome::Passed) => ("ok".to_owned(), true),
        Ok(Outcome::Skipped(why)) => (format!("skipped: {why}"), true),
        Err(error) => {
            eprintln!("{error:#}");
            ("FAILED".to_owned(), false)
        }
    };
    let line = format!("{:8} {verdict} ({})", step.name, took(start));
    println!("==== {line}");
    (line, fine)
}

fn took(start: Instant) -> String {
    let elapsed: Duration = start.elapsed();
    format!("{:.1} s", elapsed.as_secs_f64())
}

impl Selection {
    fn wants(&self, name: &str) -> bool {
        let named = |list: &[String]| list.iter().any(|entry| entry == name);
        (self.only.is_empty() || named(&self.only)) && !named(&self.without)
    }
}

/// `None` if help was asked for.
fn parse(arguments: &[String]) -> Result<Option<Selection>> {
    let mut selection = Selection { only: Vec::new(), without: Vec::new(), fail_fast: false };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--help" | "-h" => return Ok(None),
            "--fail-fast" => selection.fail_fast = true,
            "--no-python" | "--rust-only" => {
                selection.without.extend(PYTHON_STEPS.map(str::to_owned));
            }
            "--only" => selection.only.push(step_name(rest.next())?),
            "--skip" => selection.without.push(step_name(rest.next())?),
            other => bail!("unknown argument `{other}`\n\n{}", help()),
        }
    }
    Ok(Some(selection))
}

fn step_name(argument: Option<&String>) -> Result<String> {
    let name = argument.with_context(|| format!("name a step\n\n{}", help()))?;
    if STEPS.iter().all(|step| step.name != name) {
        bail!("there is no step `{name}`\n\n{}", help());
    }
    Ok(name.clone())
}

fn help() -> String {
    let mut text = "\
cargo xtask test [--no-python] [--only STEP]... [--skip STEP]... [--fail-fast]

  --no-python, --rust-only   leaves out what needs Python: `oracle`, `wheel` and `python`
  --only STEP                runs only the named steps
  --skip STEP                leaves a step out
  --fail-fast                stops at the first failure

steps:
"
    .to_owned();
    for step in STEPS {
        text += &format!("  {:8} {}\n", step.name, step.what);
    }
    text
}

fn passed(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Outcome::Passed)
}

fn cargo_step(root: &Path, arguments: &[&str]) -> Result<Outcome> {
    passed(process::run(process::cargo(root).args(arguments)))
}

/// Fails with what to install unless the cargo subcommand `name` is there.
fn need(root: &Path, name: &str, component: &str) -> Result<()> {
    if process::succeeds(process::cargo(root).args([name, "--version"])) {
        return Ok(());
    }
    bail!("`cargo {name}` is missing; install it with `rustup component add {component}`")
}

fn format(root: &Path) -> Result<Outcome> {
    need(root, "fmt", "rustfmt")?;
    cargo_step(root, &["fmt", "--all", "--", "--check"])
}

fn deny(root: &Path) -> Result<Outcome> {
    if process::succeeds(process::cargo(root).args(["deny", "--version"])) {
        return cargo_step(root, &["deny", "check", "bans", "licenses", "sources"]);
    }
    licences::check(root)?;
    Ok(Outcome::Skipped("cargo-deny is not installed; licences checked without it".to_owned()))
}

fn clippy(root: &Path) -> Result<Outcome> {
    need(root, "clippy", "clippy")?;
    cargo_step(
        root,
        &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
    )
}

fn docs(root: &Path) -> Result<Outcome> {
    let mut cargo = process::cargo(root);
    cargo.args(["doc", "--workspace", "--lib", "--no-deps", "--locked"]);
    passed(process::run(cargo.env("RUSTDOCFLAGS", "-D warnings")))
}

fn rust_tests(root: &Path) -> Result<Outcome> {
    cargo_step(root, &["test", "--workspace", "--locked"])
}

fn release(root: &Path) -> Result<Outcome> {
    cargo_step(root, RELEASE)
}

/// How the command is built for release, here and for benchmarks.
pub const RELEASE: &[&str] = &["build", "--release", "--locked", "--package", "overflowml-cli"];

/// The release build of the command.
pub fn release_binary(root: &Path) -> Result<PathBuf> {
    let name = format!("overflowml{}", env::consts::EXE_SUFFIX);
    Ok(process::target_dir(root)?.join("release").join(name))
}

/// The environment of the tests, with what `tests/requirements.txt` lists.
fn environment(root: &Path) -> Result<(PathBuf, PathBuf)> {
    let venv = process::target_dir(root)?.join("venv");
    let interpreter = python::environment(&venv, &root.join(REQUIREMENTS))?;
    Ok((venv, interpreter))
}

/// What the tests and the benchmarks need of Python.
pub const REQUIREMENTS: &str = "tests/requirements.txt";

fn oracle(root: &Path) -> Result<Outcome> {
    let binary = release_binary(root)?;
    if !binary.is_file() {
        bail!("{} is missing: the `release` step builds it", binary.display());
    }
    pytest(root, "tests/oracle")
}

/// Builds the wheel with the profile that the tests have, so that it is quick, and installs it.
fn wheel(root: &Path) -> Result<Outcome> {
    let (venv, interpreter) = environment(root)?;
    let out = process::target_dir(root)?.join("wheel");
    let mut maturin = std::process::Command::new(interpreter);
    maturin.current_dir(root).args(["-m", "maturin", "build", "--profile", "dev", "--locked"]);
    maturin.args(["--compatibility", "linux", "--out"]).arg(&out);
    process::run(&mut maturin)?;
    passed(python::install(&venv, &python::newest_wheel(&out)?))
}

fn python_tests(root: &Path) -> Result<Outcome> {
    let (_, interpreter) = environment(root)?;
    let installed = std::process::Command::new(interpreter)
        .args(["-I", "-c", "import overflowml._native"])
        .status();
    if !installed.is_ok_and(|status| status.success()) {
        bail!("the package is not installed: the `wheel` step does that");
    }
    pytest(root, "tests/python")
}

fn pytest(root: &Path, folder: &str) -> Result<Outcome> {
    let (_, interpreter) = environment(root)?;
    let mut pytest = std::process::Command::new(interpreter);
    pytest
        .current_dir(root.join(folder))
        .args(["-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", "--durations=5", "."])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("OVERFLOWML_BIN", release_binary(root)?)
        .env("OVERFLOWML_XTASK", env::current_exe().context("the path of xtask")?);
    passed(process::run(&mut pytest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(arguments: &[&str]) -> Vec<&'static str> {
        let arguments: Vec<String> = arguments.iter().map(|&a| a.to_owned()).collect();
        let selection = parse(&arguments).unwrap().unwrap();
        STEPS.iter().map(|step| step.name).filter(|name| selection.wants(name)).collect()
    }

    #[test]
    fn every_step_runs_unless_told_otherwise() {
        assert_eq!(chosen(&[]).len(), STEPS.len());
    }

    #[test]
    fn steps_are_picked_and_left_out_by_name() {
        assert_eq!(chosen(&["--only", "format", "--only", "docs"]), ["format", "docs"]);
        assert!(!chosen(&["--no-python"]).iter().any(|step| PYTHON_STEPS.contains(step)));
        assert!(!chosen(&["--skip", "clippy"]).contains(&"clippy"));
    }

    #[test]
    fn a_misspelled_step_is_refused() {
        let arguments = ["--only".to_owned(), "fromat".to_owned()];
        assert!(parse(&arguments).is_err());
    }

    #[test]
    fn a_failing_step_is_counted() {
        let step = Step { name: "x", what: "", run: |_| bail!("broken") };
        assert!(!run_step(&step, Path::new(".")).1);
        let step = Step { name: "x", what: "", run: |_| Ok(Outcome::Skipped(String::new())) };
        assert!(run_step(&step, Path::new(".")).1);
    }
}
