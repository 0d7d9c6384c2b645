//! Python environments under the target folder, made from a pinned list and reused while it stays.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process;

/// Names the requirements that an environment was completed for.
const STAMP: &str = "requirements.stamp";

/// The interpreter of the environment at `venv`, which holds what `requirements` lists.
///
/// Made or completed if need be, which downloads packages; otherwise returned as it is.
pub fn environment(venv: &Path, requirements: &Path) -> Result<PathBuf> {
    let wanted =
        fs::read_to_string(requirements).with_context(|| requirements.display().to_string())?;
    let interpreter = interpreter_of(venv);
    let stamp = venv.join(STAMP);
    let current = fs::read_to_string(&stamp).is_ok_and(|made_for| made_for == wanted);
    if current && interpreter.is_file() {
        return Ok(interpreter);
    }
    create_if_missing(venv)?;
    println!("installing {} into {}", requirements.display(), venv.display());
    process::run(
        installer(venv)?.args(["install", "--progress-bar", "off", "-r"]).arg(requirements),
    )?;
    fs::write(&stamp, wanted).with_context(|| stamp.display().to_string())?;
    Ok(interpreter)
}

/// Where an environment keeps its interpreter.
pub fn interpreter_of(venv: &Path) -> PathBuf {
    if cfg!(windows) { venv.join("Scripts/python.exe") } else { venv.join("bin/python") }
}

/// The Python that makes environments: `$PYTHON`, else `python3`.
fn system_python() -> Result<PathBuf> {
    let python: PathBuf = env::var_os("PYTHON").unwrap_or_else(|| "python3".into()).into();
    let supported = "import sys; sys.exit(sys.version_info < (3, 10))";
    if !process::succeeds(Command::new(&python).args(["-c", supported])) {
        bail!(
            "`{}` is not a Python 3.10 or later: install one, name it in $PYTHON, or leave this \
             step out with `--no-python`",
            python.display()
        );
    }
    Ok(python)
}

/// Makes an empty environment unless there is one.
pub fn create_if_missing(venv: &Path) -> Result<()> {
    if interpreter_of(venv).is_file() { Ok(()) } else { create(venv) }
}

/// Makes an empty environment, without its own pip where the system's Python cannot bring one.
fn create(venv: &Path) -> Result<()> {
    let python = system_python()?;
    if process::run(Command::new(&python).args(["-m", "venv"]).arg(venv)).is_ok() {
        return Ok(());
    }
    process::run(Command::new(&python).args(["-m", "venv", "--clear", "--without-pip"]).arg(venv))
}

/// `pip` for the environment: its own, else the system's acting on it.
fn installer(venv: &Path) -> Result<Command> {
    let interpreter = interpreter_of(venv);
    let mut own = Command::new(&interpreter);
    own.args(["-m", "pip"]);
    if process::succeeds(Command::new(&interpreter).args(["-m", "pip", "--version"])) {
        return Ok(own);
    }
    let mut system = Command::new(system_python()?);
    system.args(["-m", "pip", "--python"]).arg(interpreter);
    Ok(system)
}

/// Installs `wheel` into the environment at `venv`, without what it depends on and in place of what is there.
pub fn install(venv: &Path, wheel: &Path) -> Result<()> {
    let quietly = ["install", "--progress-bar", "off", "--no-deps", "--force-reinstall"];
    process::run(installer(venv)?.args(quietly).arg(wheel))
}

/// The wheel in `folder` that was made last.
pub fn newest_wheel(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let wheels = entries.filter_map(Result::ok).filter(|entry| {
        let name = entry.file_name();
        Path::new(&name).extension().is_some_and(|extension| extension == "whl")
    });
    let made = |entry: &fs::DirEntry| entry.metadata().and_then(|about| about.modified()).ok();
    let newest = wheels.max_by_key(made);
    Ok(newest.with_context(|| format!("there is no wheel in {}", folder.display()))?.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_list_is_named() {
        let error = environment(Path::new("/nonexistent"), Path::new("/nonexistent/list.txt"));
        assert!(format!("{:#}", error.unwrap_err()).contains("/nonexistent/list.txt"));
    }
}
