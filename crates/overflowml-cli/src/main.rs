//! The `overflowml` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Ok(program) = std::env::current_exe() {
        overflowml::restarts_as(vec![program.into()]);
    }
    ExitCode::from(overflowml_cli::run(std::env::args_os().skip(1).collect()))
}
