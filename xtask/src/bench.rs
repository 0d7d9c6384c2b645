//! `cargo xtask bench`: prepares what the scripts in `benches/` need, and starts them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{process, python, test};

/// Builds the command, completes the Python environment of the peers and runs `benches/run.py`, or
/// `benches/experts.py` after `--experts`, with `arguments`; they know the flags.
pub fn run(arguments: &[String]) -> Result<()> {
    let root = process::root()?;
    let target = process::target_dir(&root)?;
    process::run(process::cargo(&root).args(test::RELEASE))?;
    let interpreter = peers(&root, &target)?;
    let out = target.join("bench");
    fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let mut bench = Command::new(interpreter);
    let (script, arguments) = match arguments.split_first() {
        Some((first, rest)) if first == "--experts" => ("benches/experts.py", rest),
        _ => ("benches/run.py", arguments),
    };
    bench
        .arg(root.join(script))
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("OVERFLOWML_BIN", test::release_binary(&root)?)
        .env("OVERFLOWML_XTASK", env::current_exe().context("the path of xtask")?)
        .env("OVERFLOWML_BENCH_DIR", out);
    process::run(&mut bench)
}

/// The interpreter of the peers' environment.
///
/// It sees the packages of the oracle's environment (torch is several gigabytes) and adds its own.
fn peers(root: &Path, target: &Path) -> Result<PathBuf> {
    let oracle = target.join("venv");
    let shared = python::environment(&oracle, &root.join(test::REQUIREMENTS))?;
    let venv = target.join("bench-venv");
    python::create_if_missing(&venv)?;
    let question = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let site =
        |interpreter: &Path| process::capture(Command::new(interpreter).args(["-c", question]));
    let link = PathBuf::from(site(&python::interpreter_of(&venv))?.trim()).join("oracle.pth");
    fs::write(&link, site(&shared)?).with_context(|| link.display().to_string())?;
    python::environment(&venv, &root.join("benches/requirements.txt"))
}
