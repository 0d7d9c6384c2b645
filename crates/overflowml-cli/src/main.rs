//! The `overflowml` command: arguments → settings → command → output and exit code.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod interrupt;
mod output;
mod progress;
mod settings;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::commands::Answer;

fn main() -> ExitCode {
    // This program starts itself to ask a GPU driver, which may crash or hang.
    if overflowml::serve_probe() {
        return ExitCode::SUCCESS;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => return refuse(&refused),
    };
    match run(cli.command) {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        Ok(Answer::Interrupted) => ExitCode::from(130),
        Err(error) => {
            output::error(&error);
            if let Some(hint) = commands::hint(&error) {
                output::hint(&hint);
            }
            ExitCode::from(commands::exit_code(&error))
        }
    }
}

/// `--help` and `--version` are answers; anything else that clap refuses is bad input.
fn refuse(refused: &clap::Error) -> ExitCode {
    // Ignored: with both streams gone there is nobody left to tell.
    let _ = refused.print();
    ExitCode::from(if refused.use_stderr() { 2 } else { 0 })
}

fn run(command: Command) -> anyhow::Result<Answer> {
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
