//! `overflowml run --prompts`: many prompts share each pass over the weights.

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use overflowml::batch::{
    self, BatchEnds, BatchOutput, BatchPrompt, Journal, Outcome, Row, RowError, Rows,
};
use overflowml::{
    BatchReport, Bytes, Error, GenerateOptions, LogitsWanted, Model, Planner, Sampling,
    SessionRequest, Text,
};

use super::run::open_session;
use super::{Answer, open_model};
use crate::args::{BatchSize, RunArgs};
use crate::progress::RowBar;
use crate::{interrupt, output, settings};

/// More at once are not tried unless they are asked for.
const MOST_AT_ONCE: usize = 256;

pub fn run(args: &RunArgs, prompts: &Path) -> anyhow::Result<Answer> {
    let out = args.out.as_ref().context("name a file for the results with `--out`")?;
    let model = open_model(&args.model.model)?;
    let sampling = settings::sampling(&args.sampling, &model.generation)?;
    let text = Text::open(&model)?;
    interrupt::listen();
    let mut longest = Longest::default();
    let limit = args.max_new_tokens as usize;
    let rows =
        Rows::open(prompts, &mut |row| longest.look(&text, row, limit)).map_err(Error::from)?;
    let provenance =
        batch::provenance(&model, &rows, settings_text(args, &sampling)).map_err(Error::from)?;
    let journal = Journal::open(out, &provenance, args.overwrite).map_err(Error::from)?;
    let resumed = journal.finished();
    if resumed > 0 {
        output::note(&format!("continuing: {resumed} of {} rows are done", rows.len()));
    }
    let total = rows.len();
    let mut work = Work {
        model: &model,
        text: &text,
        args,
        sampling,
        rows,
        journal,
        next: 0,
        bar: RowBar::new(total, resumed),
        tokens: 0,
    };
    let report = if resumed < total { Some(work.generate(longest)?) } else { None };
    let (failed, tokens) = (work.journal.failed(), work.tokens);
    drop(work.bar);
    work.journal.finish(total).map_err(Error::from)?;
    let summary = Summary { rows: total, failed, resumed, tokens, report };
    if args.json {
        output::json(&summary)?
    } else {
        output::answer_line(&summary.line(out))
    }
    Ok(if failed > 0 { Answer::No } else { Answer::Yes })
}

/// Everything that `run --prompts --json` prints.
#[derive(Debug, serde::Serialize)]
struct Summary {
    /// Rows of the file.
    rows: usize,
    /// Those without a result, in whichever run.
    failed: usize,
    /// Those that an earlier run had finished.
    resumed: usize,
    /// New tokens of this run.
    tokens: usize,
    /// `None` if nothing was left to do.
    #[serde(flatten)]
    report: Option<BatchReport>,
}

impl Summary {
    fn line(&self, out: &Path) -> String {
        let failed =
            if self.failed == 0 { String::new() } else { format!(", {} failed", self.failed) };
        let speed = self.report.as_ref().map_or_else(String::new, |report| {
            format!(
                ": {} tokens in {}, {:.2} tokens/s, {} at a time",
                self.tokens,
                report.generate_seconds,
                report.tokens_per_second,
                report.plan.sequences
            )
        });
        format!("{} rows{failed} -> {}{speed}", self.rows, out.display())
    }
}

/// Settings that change results, for comparison with an unfinished run's.
fn settings_text(args: &RunArgs, sampling: &Sampling) -> String {
    format!(
        "{sampling:?}, max_new_tokens: {}, ignore_eos: {}, context: {:?}, precision: {:?}",
        args.max_new_tokens, args.sampling.ignore_eos, args.host.context, args.host.precision
    )
}

/// What the longest row takes.
#[derive(Clone, Copy, Debug, Default)]
struct Longest {
    prompt: usize,
    context: usize,
}

impl Longest {
    fn look(&mut self, text: &Text, row: Result<Row, RowError>, limit: usize) {
        // A row that fails is told about when its turn comes.
        let Ok(row) = row else { return };
        let Ok(tokens) = text.encode(&row.prompt) else { return };
        let limit = row.max_new_tokens.map_or(limit, |limit| limit as usize);
        self.prompt = self.prompt.max(tokens.len());
        self.context = self.context.max(tokens.len() + limit);
    }
}

/// The rows being worked on.
struct Work<'a> {
    model: &'a Model,
    text: &'a Text,
    args: &'a RunArgs,
    sampling: Sampling,
    rows: Rows,
    journal: Journal,
    next: usize,
    bar: RowBar,
    tokens: usize,
}

impl Work<'_> {
    /// Continues every row that is not finished.
    fn generate(&mut self, longest: Longest) -> anyhow::Result<BatchReport> {
        let left = self.rows.len() - self.journal.finished();
        let mut session = open_session(self.model, &self.request(longest, left)?)?;
        let started = Instant::now();
        let result = session.generate_many(self, interrupt::flag());
        let report = session.batch_report(self.tokens, started.elapsed());
        if let Err(error) = result {
            let (done, total) = (self.journal.finished(), self.rows.len());
            output::note(&format!(
                "{done} of {total} rows are done and kept: the same command continues"
            ));
            return Err(error.into());
        }
        Ok(report)
    }

    /// A session that holds the longest row, or as long ones as `--context` says.
    fn request(&self, longest: Longest, left: usize) -> anyhow::Result<SessionRequest> {
        let host = &self.args.host;
        let context = host.context.map_or(longest.context, |most| most as usize).max(1);
        let prompt = longest.prompt.clamp(1, context);
        let mut request = settings::session(host, prompt, context - prompt, LogitsWanted::Last);
        request.later = Bytes::ZERO;
        request.sequences = match self.args.batch {
            BatchSize::Rows(rows) => usize::from(rows).min(left),
            BatchSize::Auto => {
                Planner::new(self.model, &request)?.best_sequences(left.min(MOST_AT_ONCE))?
            }
        };
        Ok(request)
    }

    fn prompt(&self, index: usize, row: &Row) -> Result<BatchPrompt, RowError> {
        let tokens = self.text.encode(&row.prompt).map_err(|error| row_error(&error.into()))?;
        let mut sampling = self.sampling;
        sampling.temperature = row.temperature.unwrap_or(sampling.temperature);
        sampling.seed = row.seed.unwrap_or(sampling.seed);
        let limit = row.max_new_tokens.unwrap_or(self.args.max_new_tokens) as usize;
        let ignore_eos = self.args.sampling.ignore_eos;
        let options =
            GenerateOptions::new(self.model, self.text, sampling, limit.max(1), ignore_eos);
        Ok(BatchPrompt { index, tokens, options })
    }

    fn keep(&mut self, outcome: &Outcome) -> Result<(), Error> {
        self.journal.keep(outcome)?;
        self.bar.rows(self.journal.finished());
        Ok(())
    }
}

impl BatchEnds for Work<'_> {
    fn next(&mut self) -> Result<Option<BatchPrompt>, Error> {
        while self.next < self.rows.len() {
            let index = self.next;
            self.next += 1;
            if self.journal.has(index) {
                continue;
            }
            let (id, prompt) = match self.rows.read(index)? {
                Ok(row) => (row.id.clone(), self.prompt(index, &row)),
                Err(error) => (None, Err(error)),
            };
            match prompt {
                Ok(prompt) => return Ok(Some(prompt)),
                Err(error) => self.keep(&Outcome::failed(index, id, error))?,
            }
        }
        Ok(None)
    }

    fn done(&mut self, index: usize, result: Result<BatchOutput, Error>) -> Result<(), Error> {
        let id = self.rows.read(index)?.ok().and_then(|row| row.id);
        let outcome = match result {
            Ok(output) => {
                let mut stream = self.text.stream();
                let mut text: String =
                    output.tokens.iter().map(|&token| stream.push(token)).collect();
                text += &stream.finish();
                Outcome::done(index, id, text, output)
            }
            Err(error) => Outcome::failed(index, id, row_error(&error)),
        };
        self.keep(&outcome)
    }

    fn passed(&mut self, tokens: usize) {
        self.tokens += tokens;
        self.bar.tokens(self.tokens);
    }
}

fn row_error(error: &Error) -> RowError {
    RowError { code: error.code().to_owned(), message: error.to_string() }
}
