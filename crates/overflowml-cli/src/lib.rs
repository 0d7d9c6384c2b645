//! The `overflowml` command as a library: arguments → settings → command → output and exit code.
//!
//! The program and the Python wheel are the same command: both call [`run`]. [`document`] is for those who want a
//! command's answer and not its output.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod document;
mod interrupt;
mod output;
mod progress;
mod settings;

use std::ffi::OsString;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::commands::Answer;

pub use crate::document::{DocumentError, document};

/// Runs the command that `arguments` (those after the program's name) ask for, and returns its exit code.
///
/// Writes to the standard output and standard error. Blocks. If a reader of the standard output goes away, or on a
/// second Ctrl-C, the process ends.
pub fn run(arguments: Vec<OsString>) -> u8 {
    // This program starts itself to ask a GPU driver, which may crash or hang.
    if overflowml::serve_probe(&arguments) {
        return 0;
    }
    let cli = match Cli::try_parse_from(named(arguments)) {
        Ok(cli) => cli,
        Err(refused) => return refuse(&refused),
    };
    match dispatch(cli.command) {
        Ok(Answer::Yes) => 0,
        Ok(Answer::No) => 1,
        Ok(Answer::Interrupted) => 130,
        Err(error) => {
            output::error(&error);
            if let Some(hint) = commands::hint(&error) {
                output::hint(&hint);
            }
            commands::exit_code(&error)
        }
    }
}

/// `arguments` after the name that help and errors call the program by.
fn named(arguments: Vec<OsString>) -> impl Iterator<Item = OsString> {
    std::iter::once(OsString::from("overflowml")).chain(arguments)
}

/// `--help` and `--version` are answers; anything else that clap refuses is bad input.
fn refuse(refused: &clap::Error) -> u8 {
    // Ignored: with both streams gone there is nobody left to tell.
    let _ = refused.print();
    if refused.use_stderr() { 2 } else { 0 }
}

fn dispatch(command: Command) -> anyhow::Result<Answer> {
    match command {
        Command::Detect(args) => commands::detect::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Plan(args) => commands::plan::run(&args),
        Command::CanRun(args) => commands::can_run::run(&args),
        Command::Run(args) => commands::run::run(&args),
        Command::Score(args) => commands::score::run(&args),
        Command::Synth(args) => commands::synth::run(&args),
        Command::Demo(args) => commands::demo::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
    }
}
