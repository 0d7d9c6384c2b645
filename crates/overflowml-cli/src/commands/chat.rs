//! `overflowml run --chat`: a conversation with history.

use overflowml::{
    ChatMessage, GenerateOptions, LogitsWanted, Model, Role, Sampling, Session, Text,
};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::Answer;
use super::run::{Printer, open_session, status};
use crate::args::RunArgs;
use crate::{interrupt, output, settings};

/// Positions that a conversation may fill unless `--context` says otherwise.
const CONTEXT: usize = 4096;

pub fn run(
    args: &RunArgs,
    model: &Model,
    text: Text,
    sampling: Sampling,
) -> anyhow::Result<Answer> {
    text.require_chat_template().map_err(overflowml::Error::from)?;
    let most = model.decoder().map_err(overflowml::Error::from)?.max_context;
    let context = args.host.context.map_or(CONTEXT, |tokens| tokens as usize).min(most);
    let limit = (args.max_new_tokens as usize).min(context / 2);
    let request = settings::session(&args.host, context - limit, limit, LogitsWanted::Last);
    let session = open_session(model, &request)?;
    let options = GenerateOptions::new(model, &text, sampling, limit, args.sampling.ignore_eos);
    let mut chat = Chat { text: &text, session, options, history: Vec::new() };
    if let Some(system) = &args.system {
        chat.history.push(ChatMessage { role: Role::System, content: system.clone() });
    }
    output::note("Type a message; /exit ends, /reset starts over, Ctrl-C ends a reply.");
    chat.talk()
}

struct Chat<'a> {
    text: &'a Text,
    session: Session,
    options: GenerateOptions,
    history: Vec<ChatMessage>,
}

impl Chat<'_> {
    fn talk(&mut self) -> anyhow::Result<Answer> {
        let mut editor = DefaultEditor::new()?;
        loop {
            match editor.readline("> ") {
                Ok(line) => match line.trim() {
                    "" => {}
                    "/exit" | "/quit" => return Ok(Answer::Yes),
                    "/reset" => self.history.retain(|message| message.role == Role::System),
                    message => {
                        editor.add_history_entry(message)?;
                        self.reply(message)?;
                    }
                },
                Err(ReadlineError::Interrupted) => output::note("(/exit ends the chat)"),
                Err(ReadlineError::Eof) => return Ok(Answer::Yes),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Answers one message. What cannot be answered is reported, and the chat goes on.
    fn reply(&mut self, message: &str) -> anyhow::Result<()> {
        interrupt::clear();
        self.history.push(ChatMessage { role: Role::User, content: message.to_owned() });
        let prompt = self.text.encode_chat(&self.history).map_err(overflowml::Error::from)?;
        let room = self.session.context().saturating_sub(prompt.len());
        if room == 0 {
            self.history.pop();
            output::note(&format!(
                "the conversation has {} tokens, the context only {}: /reset starts over, \
                 `--context` makes more room",
                prompt.len(),
                self.session.context()
            ));
            return Ok(());
        }
        let mut options = self.options.clone();
        options.max_new_tokens = options.max_new_tokens.min(room);
        let mut printer = Printer::new(self.text, true);
        let generation =
            self.session.generate(&prompt, &options, interrupt::flag(), &mut |token| {
                printer.token(token);
            })?;
        let reply = printer.finish();
        status(&self.session.report(reply.clone(), prompt.len(), generation));
        self.history.push(ChatMessage { role: Role::Assistant, content: reply });
        Ok(())
    }
}
