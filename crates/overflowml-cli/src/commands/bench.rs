//! `overflowml bench`

use overflowml::calibration;

use super::{Answer, local_files};
use crate::args::BenchArgs;
use crate::output;

pub fn run(args: &BenchArgs) -> anyhow::Result<Answer> {
    let model = match &args.model {
        Some(model) => Some(overflowml::open(&local_files(model)?)?),
        None => None,
    };
    let measured = calibration::calibrate(model.as_ref())?;
    if args.json {
        output::json(&measured)?;
    } else {
        output::answer(&measured.to_string());
    }
    Ok(Answer::Yes)
}
