//! Tokens to text as they come, whole characters only.

use tokenizers::Tokenizer;

/// Shown for bytes that are no character, or not yet.
const REPLACEMENT: char = '\u{fffd}';

/// Bytes of an unfinished character: the longest has four.
const MOST_UNFINISHED: usize = 3;

/// Tokens that are decoded together at most.
const WINDOW: usize = 24;

/// Tokens that are decoded again with the next ones: what a token looks like depends on whether another precedes it,
/// and what is held back may be three unfinished characters of three tokens each.
const CONTEXT: usize = 12;

/// Text in the making. Made by [`Text::stream`](super::Text::stream).
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The latest tokens.
    window: Vec<u32>,
    /// Bytes of the window's text that were handed out.
    given: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, window: Vec::with_capacity(WINDOW + 1), given: 0 }
    }

    /// The text that `token` completes; empty while a character is unfinished.
    pub fn push(&mut self, token: u32) -> String {
        self.window.push(token);
        let text = self.text();
        let piece = self.give(&text, finished(&text));
        if self.window.len() > WINDOW {
            let held_back = text.len() - finished(&text);
            self.window.drain(..self.window.len() - CONTEXT);
            self.given = self.text().len().saturating_sub(held_back);
        }
        piece
    }

    /// What was held back in the hope that it would become a character.
    pub fn finish(&mut self) -> String {
        let text = self.text();
        let piece = self.give(&text, text.len());
        self.window.clear();
        self.given = 0;
        piece
    }

    fn give(&mut self, text: &str, end: usize) -> String {
        // Some tokenizers turn earlier bytes into replacements once a later one is wrong: what was handed out
        // stays, and what follows is handed out from there.
        let piece = text.get(self.given..end).unwrap_or_default().to_owned();
        self.given = self.given.max(end);
        piece
    }

    fn text(&self) -> String {
        // A token that the tokenizer does not know is left out, as models with padded vocabularies have them.
        self.tokenizer.decode(&self.window, true).unwrap_or_default()
    }
}

/// The end of what cannot change any more: all but the last few replacement characters.
fn finished(text: &str) -> usize {
    let unfinished = text.chars().rev().take(MOST_UNFINISHED).take_while(|&c| c == REPLACEMENT);
    text.len() - unfinished.count() * REPLACEMENT.len_utf8()
}
