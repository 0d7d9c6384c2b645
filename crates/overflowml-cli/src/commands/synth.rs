//! `overflowml synth`

use overflowml::synth::{SynthRequest, synthesize};

use super::Answer;
use crate::args::SynthArgs;
use crate::output;
use crate::progress::ByteBar;

pub fn run(args: &SynthArgs) -> anyhow::Result<Answer> {
    let request = SynthRequest::new(&args.dir, &args.arch, args.params, &args.dtype, args.seed)
        .map_err(overflowml::Error::from)?;
    let mut bar = ByteBar::new("writing");
    let report = synthesize(&request, &mut |done, total| bar.update(done, total))
        .map_err(overflowml::Error::from)?;
    drop(bar);
    if args.json {
        output::json(&report)?;
    } else {
        output::answer_line(&format!(
            "{}: {} parameters, {} of weights",
            args.dir.display(),
            report.parameters,
            report.weights
        ));
    }
    Ok(Answer::Yes)
}
