//! `overflowml run`

use std::io::Write;
use std::time::Instant;

use overflowml::{
    GenerateOptions, LogitsWanted, Model, RunReport, Session, StoppedBy, Text, TextStream,
};

use super::{Answer, batch, chat, open_model};
use crate::args::RunArgs;
use crate::progress::ByteBar;
use crate::{interrupt, output, settings};

pub fn run(args: &RunArgs) -> anyhow::Result<Answer> {
    if let Some(prompts) = &args.prompts {
        return batch::run(args, prompts);
    }
    let model = open_model(&args.model.model)?;
    let sampling = settings::sampling(&args.sampling, &model.generation)?;
    let text = Text::open(&model)?;
    interrupt::listen();
    if args.chat {
        return chat::run(args, &model, text, sampling);
    }
    let prompt = text.encode(&prompt_text(args)?)?;
    let limit = args.max_new_tokens as usize;
    let request = settings::session(&args.host, prompt.len(), limit, LogitsWanted::Last);
    let mut session = open_session(&model, &request)?;
    let options = GenerateOptions::new(&model, &text, sampling, limit, args.sampling.ignore_eos);
    let mut printer = Printer::new(&text, !args.json);
    let generation = session.generate(&prompt, &options, interrupt::flag(), &mut |token| {
        printer.token(token);
    })?;
    let written = printer.finish();
    let stopped_by = generation.stopped_by;
    let report = session.report(written, prompt.len(), generation);
    if args.json {
        output::json(&report)?;
    } else {
        status(&report);
    }
    Ok(if stopped_by == StoppedBy::Interrupt { Answer::Interrupted } else { Answer::Yes })
}

/// Opens a session with a progress bar.
pub fn open_session(
    model: &Model,
    request: &overflowml::SessionRequest,
) -> anyhow::Result<Session> {
    let mut bar = ByteBar::new("loading");
    Ok(Session::open(model, request, &mut |done, total| bar.update(done, total))?)
}

fn prompt_text(args: &RunArgs) -> anyhow::Result<String> {
    match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => Ok(text.clone()),
        (None, Some(file)) => settings::text_of(file),
        (None, None) => Ok(String::new()),
    }
}

/// Prints text as its tokens come, and a status line while a person watches.
pub struct Printer<'a> {
    stream: TextStream<'a>,
    written: String,
    live: bool,
    first: Option<Instant>,
    tokens: u32,
}

impl<'a> Printer<'a> {
    /// `live` prints to stdout; otherwise the text is only collected.
    pub fn new(text: &'a Text, live: bool) -> Self {
        Self { stream: text.stream(), written: String::new(), live, first: None, tokens: 0 }
    }

    /// One more token.
    pub fn token(&mut self, token: u32) {
        self.first.get_or_insert_with(Instant::now);
        self.tokens += 1;
        let piece = self.stream.push(token);
        self.write(&piece);
    }

    /// The rest of the text; everything that was written.
    pub fn finish(mut self) -> String {
        let piece = self.stream.finish();
        self.write(&piece);
        if self.live {
            output::answer("\n");
        }
        self.written
    }

    fn write(&mut self, piece: &str) {
        if self.live {
            output::answer(piece);
        }
        self.written.push_str(piece);
    }
}

/// One line about the run, on a terminal only.
pub fn status(report: &RunReport) {
    if !output::watched() {
        return;
    }
    let speed = report
        .timings
        .decode_tokens_per_second
        .map_or_else(String::new, |speed| format!(", {speed:.2} tokens/s"));
    let peak = report
        .memory
        .peak_rss
        .map_or_else(String::new, |peak| format!(", peak {peak} of {}", report.memory.budget));
    let experts = report.io.experts.as_ref().map_or_else(String::new, |experts| {
        let hits = experts.decode_hit_rate.or(experts.hit_rate).unwrap_or(1.0);
        format!(", {:.0} % of experts found in memory", 100.0 * hits)
    });
    output::note(&format!("[{} tokens{speed}{experts}{peak}]", report.tokens.len()));
    let _ = std::io::stderr().flush();
}
