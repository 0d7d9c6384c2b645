//! Project automation: `cargo xtask <command>`, run from anywhere in the repository.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this program talks to developers")]

mod bench;
mod gpu;
mod layers;
mod licences;
mod memcap;
mod process;
mod python;
mod sizes;
mod source;
mod test;

use std::env;
use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask <command>

  test      everything a change has to pass; `test --help` lists the steps and flags
  layers    who may depend on whom, who may be unsafe, who may touch the system
  sizes     lengths of files and functions
  licences  licences of the dependency tree
  bench     paired runs against other programs; `bench --help` and `bench --experts --help` list the flags
  gpu-check large models in little GPU memory; skipped without a GPU; `gpu-check --help` lists the flags
  memcap    `memcap SIZE COMMAND...` runs a command under a hard memory limit
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<ExitCode> {
    let Some((command, rest)) = arguments.split_first() else {
        print!("{HELP}");
        return Ok(ExitCode::from(2));
    };
    match command.as_str() {
        "test" => return test::run(rest),
        "memcap" => return memcap::run(rest),
        "bench" => bench::run(rest)?,
        "gpu-check" => gpu::run(rest)?,
        "layers" => layers::check(&process::root()?)?,
        "sizes" => sizes::check(&process::root()?)?,
        "licences" => licences::check(&process::root()?)?,
        "help" | "--help" | "-h" => print!("{HELP}"),
        other => bail!("there is no command `{other}`\n\n{HELP}"),
    }
    Ok(ExitCode::SUCCESS)
}
