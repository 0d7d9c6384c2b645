//! Progress bars: on a terminal, for what takes longer than a second.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use overflowml::Bytes;

use crate::output;

/// A bar of bytes that shows itself only if the work outlasts a second and a person watches.
pub struct ByteBar {
    bar: ProgressBar,
    started: Instant,
    shown: bool,
}

impl ByteBar {
    /// A bar that says what is being done.
    pub fn new(doing: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_message(doing.to_owned());
        Self { bar, started: Instant::now(), shown: !output::watched() }
    }

    /// `done` of `total` bytes.
    pub fn update(&mut self, done: Bytes, total: Bytes) {
        self.bar.set_length(total.get());
        self.bar.set_position(done.get());
        if !self.shown && self.started.elapsed() > Duration::from_secs(1) {
            self.shown = true;
            let template = "{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, \
                            {binary_bytes_per_sec}, {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(style);
            }
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for ByteBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A bar of rows with the speed in tokens, under the same conditions.
pub struct RowBar {
    bar: ProgressBar,
    started: Instant,
    shown: bool,
}

impl RowBar {
    /// A bar of `total` rows, of which `done` were done before.
    pub fn new(total: usize, done: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::hidden());
        bar.set_position(done as u64);
        bar.reset_eta();
        Self { bar, started: Instant::now(), shown: !output::watched() }
    }

    /// So many rows are done.
    pub fn rows(&mut self, done: usize) {
        self.bar.set_position(done as u64);
    }

    /// So many tokens were made.
    pub fn tokens(&mut self, made: usize) {
        let elapsed = self.started.elapsed();
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let speed = made as f64 / elapsed.as_secs_f64().max(1e-9);
        self.bar.set_message(format!("{speed:.1} tokens/s"));
        if !self.shown && elapsed > Duration::from_secs(1) {
            self.shown = true;
            let template = "[{bar:30}] {pos} of {len} rows, {msg}, {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(style);
            }
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for RowBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
