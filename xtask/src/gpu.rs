//! `cargo xtask gpu-check`: large random models on a GPU with little memory allowed, compared with other offloaders.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;

/// Runs `benches/gpu_check.py` with `arguments`; it knows the flags.
///
/// `$PYTHON`, or `python3`, has to have torch and the built `overflowml` extension; nothing is installed into it. Says so
/// and succeeds where torch finds no GPU.
pub fn run(arguments: &[String]) -> Result<()> {
    let root = process::root()?;
    let python: PathBuf = env::var_os("PYTHON").unwrap_or_else(|| "python3".into()).into();
    let has = |module: &str| process::succeeds(Command::new(&python).args(["-c", module]));
    if !has("import torch") {
        println!(
            "gpu-check: skipped, `{}` has no torch (name another in $PYTHON)",
            python.display()
        );
        return Ok(());
    }
    let simulated = arguments.iter().any(|argument| argument == "--simulate");
    let asked = arguments.iter().any(|argument| argument == "--help" || argument == "-h");
    if !simulated && !asked && !has("import sys, torch; sys.exit(not torch.cuda.is_available())") {
        println!(
            "gpu-check: skipped, torch finds no GPU here (`--simulate` runs it on a stand-in)"
        );
        return Ok(());
    }
    let sources = root.join("python");
    let native = "import sys; sys.path.insert(0, sys.argv[1]); import overflowml._native";
    if !process::succeeds(Command::new(&python).args(["-c", native]).arg(&sources)) {
        bail!("`overflowml._native` is not built for `{}`: see CONTRIBUTING.md", python.display());
    }
    let mut check = Command::new(&python);
    check.arg(root.join("benches/gpu_check.py")).args(arguments).env("PYTHONPATH", sources);
    process::run(check.current_dir(&root))
}
