//! The command, and its answers as JSON text.

use std::ffi::OsString;
use std::sync::Once;

use overflowml_cli::document;
use pyo3::prelude::*;

use crate::errors;
use crate::options::arguments;

/// Starts this module's `main` in an interpreter that reads nothing else, neither environment nor packages.
const AGAIN: &str = "\
import importlib.util as u, sys
spec = u.spec_from_file_location('overflowml._native', sys.argv.pop(1))
native = u.module_from_spec(spec)
spec.loader.exec_module(native)
sys.exit(native.main(sys.argv[1:]))";

/// Tells the library how it is started again, which it does to ask GPU drivers. Where that cannot be told, drivers are
/// asked in this process.
fn prepare(py: Python<'_>) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        let told = || -> PyResult<Vec<OsString>> {
            let sys = py.import("sys")?;
            let interpreter: OsString = sys.getattr("executable")?.extract()?;
            let module = sys.getattr("modules")?.get_item("overflowml._native")?;
            let file: OsString = module.getattr("__file__")?.extract()?;
            Ok(vec![interpreter, "-I".into(), "-S".into(), "-c".into(), AGAIN.into(), file])
        };
        if let Some(program) = told().ok().filter(|program| !program[0].is_empty()) {
            overflowml::restarts_as(program);
        }
    });
}

/// Runs the command in this process and returns its exit code; `args` are those after the program's name.
///
/// Writes to the file descriptors of the standard output and error. Blocks.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, args: Vec<OsString>) -> u8 {
    prepare(py);
    flush(py);
    py.detach(|| overflowml_cli::run(args))
}

/// What Python has buffered comes before what the command writes.
fn flush(py: Python<'_>) {
    let flush = |name: &str| py.import("sys")?.getattr(name)?.call_method0("flush");
    for name in ["stdout", "stderr"] {
        // A stream that cannot be flushed cannot be written to by the command either, which tells.
        let _: PyResult<_> = flush(name);
    }
}

fn ask(py: Python<'_>, arguments: Vec<OsString>) -> PyResult<String> {
    prepare(py);
    let answer = py.detach(|| document(arguments));
    answer.map(|document| document.to_string()).map_err(|error| errors::document(&error))
}

fn ask_about(py: Python<'_>, command: &str, subject: &str, options: &str) -> PyResult<String> {
    let arguments =
        arguments(command, subject, options).map_err(|wrong| errors::argument(&wrong.0))?;
    ask(py, arguments)
}

/// What this machine has: the document of `overflowml detect --json`.
#[pyfunction]
pub(crate) fn detect(py: Python<'_>) -> PyResult<String> {
    ask_about(py, "detect", "", "")
}

/// What is in a model: the document of `overflowml inspect --json`.
#[pyfunction]
pub(crate) fn inspect(py: Python<'_>, model: &str) -> PyResult<String> {
    ask_about(py, "inspect", model, "")
}

/// Where a model's parts would be: the document of `overflowml plan --json`. `options` is a JSON object of its flags.
#[pyfunction]
#[pyo3(signature = (subject, options = ""))]
pub(crate) fn plan(py: Python<'_>, subject: &str, options: &str) -> PyResult<String> {
    ask_about(py, "plan", subject, options)
}

/// Whether a model can run: the document of `overflowml can-run --json`. `options` is a JSON object of its flags.
#[pyfunction]
#[pyo3(signature = (subject, options = ""))]
pub(crate) fn can_run(py: Python<'_>, subject: &str, options: &str) -> PyResult<String> {
    ask_about(py, "can-run", subject, options)
}

/// What would go wrong here: the document of `overflowml doctor --json`.
#[pyfunction]
#[pyo3(signature = (model = None))]
pub(crate) fn doctor(py: Python<'_>, model: Option<&str>) -> PyResult<String> {
    let mut arguments: Vec<OsString> = vec!["doctor".into(), "--json".into()];
    arguments.extend(model.map(|model| format!("--model={model}").into()));
    ask(py, arguments)
}
