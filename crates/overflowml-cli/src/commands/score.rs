//! `overflowml score`

use overflowml::{LogitsWanted, Model, Text};

use super::{Answer, open_model, run::open_session};
use crate::args::ScoreArgs;
use crate::{interrupt, output, settings};

pub fn run(args: &ScoreArgs) -> anyhow::Result<Answer> {
    let model = open_model(&args.model.model)?;
    interrupt::listen();
    let tokens = tokens(args, &model)?;
    let request = settings::session(&args.host, tokens.len(), 0, LogitsWanted::All);
    let mut session = open_session(&model, &request)?;
    let report = session.score(&tokens, interrupt::flag())?;
    if args.json {
        output::json(&report)?;
    } else {
        output::answer(&format!(
            "perplexity {:.4} over {} tokens\n",
            report.perplexity,
            report.logprobs.len()
        ));
    }
    Ok(Answer::Yes)
}

fn tokens(args: &ScoreArgs, model: &Model) -> anyhow::Result<Vec<u32>> {
    match (&args.tokens, &args.text) {
        (Some(tokens), _) => Ok(tokens.clone()),
        (None, Some(file)) => Ok(Text::open(model)?.encode(&settings::text_of(file)?)?),
        (None, None) => Ok(Vec::new()),
    }
}
