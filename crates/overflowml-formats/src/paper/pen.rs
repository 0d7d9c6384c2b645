use std::borrow::Cow;

use overflowml_types::Bytes;

use super::storage::{Storage, Storages};
use crate::limits;
use crate::profile::Piece;

/// Writes down tensors, below a name.
///
/// All arithmetic saturates: sizes in a configuration are untrusted.
pub(crate) struct Pen<'a> {
    pieces: &'a mut Vec<Piece>,
    storages: &'a Storages,
    prefix: String,
}

impl<'a> Pen<'a> {
    pub(crate) fn new(pieces: &'a mut Vec<Piece>, storages: &'a Storages) -> Self {
        Self { pieces, storages, prefix: String::new() }
    }

    /// The same sheet below `name`.
    pub(crate) fn part(&mut self, name: &str) -> Pen<'_> {
        let prefix = format!("{}{name}.", self.prefix);
        Pen { pieces: self.pieces, storages: self.storages, prefix }
    }

    /// The same sheet below the entry `number` of the list `name`.
    pub(crate) fn entry(&mut self, name: &str, number: u64) -> Pen<'_> {
        let prefix = format!("{}{name}.{number}.", self.prefix);
        Pen { pieces: self.pieces, storages: self.storages, prefix }
    }

    /// Whether there were more tensors than any model has.
    pub(crate) fn is_full(&self) -> bool {
        self.pieces.len() >= limits::PIECES
    }

    /// A matrix from `input` to `output` elements, with or without bias.
    pub(crate) fn linear(&mut self, name: &str, input: u64, output: u64, bias: bool) {
        let count = input.saturating_mul(output);
        let storage = self.storages.linear;
        let size = storage.matrix(input, output);
        self.add(name, ".weight", count, size, storage.label, 0);
        self.bias(name, output, bias);
    }

    /// A matrix that quantised models keep as it is: a head, a router.
    pub(crate) fn kept_linear(&mut self, name: &str, input: u64, output: u64, bias: bool) {
        self.plain(name, ".weight", input.saturating_mul(output));
        self.bias(name, output, bias);
    }

    /// The same matrix of `count` routed experts.
    pub(crate) fn experts(&mut self, name: &str, count: u64, input: u64, output: u64, bias: bool) {
        let storage = self.storages.routed;
        let one = storage.matrix(input, output);
        let all = count.saturating_mul(input).saturating_mul(output);
        let experts = count.max(1);
        let size = one.saturating_mul(count);
        self.add(name, ".weight", all, size, storage.label, experts);
        if bias {
            let all = count.saturating_mul(output);
            let plain = self.storages.plain;
            self.add(name, ".bias", all, plain.size(all), plain.label, experts);
        }
    }

    /// A table of `rows` vectors.
    pub(crate) fn table(&mut self, name: &str, rows: u64, width: u64) {
        self.plain(name, ".weight", rows.saturating_mul(width));
    }

    /// One vector: a norm's weights.
    pub(crate) fn vector(&mut self, name: &str, width: u64) {
        self.plain(name, ".weight", width);
    }

    /// A norm with weights and bias.
    pub(crate) fn norm(&mut self, name: &str, width: u64) {
        self.plain(name, ".weight", width);
        self.bias(name, width, true);
    }

    /// A convolution whose kernel has `kernel` elements per pair of channels.
    pub(crate) fn conv(&mut self, name: &str, input: u64, output: u64, kernel: u64, bias: bool) {
        self.plain(name, ".weight", input.saturating_mul(output).saturating_mul(kernel));
        self.bias(name, output, bias);
    }

    /// A bare parameter of `count` numbers.
    pub(crate) fn parameter(&mut self, name: &str, count: u64) {
        self.plain(name, "", count);
    }

    /// Numbers that are stored, but are computed and not learnt.
    pub(crate) fn buffer(&mut self, name: &str, count: u64) {
        let storage = self.storages.plain;
        self.add(name, "", 0, storage.size(count), storage.label, 0);
    }

    fn bias(&mut self, name: &str, width: u64, bias: bool) {
        if bias {
            self.plain(name, ".bias", width);
        }
    }

    fn plain(&mut self, name: &str, end: &str, count: u64) {
        let Storage { label, .. } = self.storages.plain;
        let size = self.storages.plain.size(count);
        self.add(name, end, count, size, label, 0);
    }

    fn add(
        &mut self,
        name: &str,
        end: &str,
        parameters: u64,
        size: Bytes,
        label: &'static str,
        experts: u64,
    ) {
        if !self.is_full() && !size.is_zero() {
            let name = format!("{}{name}{end}", self.prefix);
            self.pieces.push(Piece {
                name,
                parameters,
                size,
                dtype: Cow::Borrowed(label),
                experts,
            });
        }
    }
}
