//! The activation buffers of a decoder: allocated once, as laid out, and reused by every layer.

use overflowml_types::{DecoderSpec, LogitsWanted, ScratchLayout};

use crate::error::ExecError;
use crate::kernels::Input;
use crate::mixture::Buffers;
use crate::score::Tally;

/// All buffers, each for the largest chunk. Shapes are in [`ScratchLayout`].
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Tokens per pass at most.
    pub(crate) chunk: usize,
    /// `[chunk, hidden]`.
    pub(crate) residual: Vec<f32>,
    /// `[chunk, hidden]`.
    pub(crate) delta: Vec<f32>,
    /// `[chunk, projected_width]`: one token's queries, keys and values.
    pub(crate) qkv: Vec<f32>,
    /// `[chunk, attended_width]`.
    pub(crate) attended: Vec<f32>,
    /// `[2, chunk, intermediate]`: gate, then up; of experts, both of one token after another.
    pub(crate) gate_up: Vec<f32>,
    /// The prepared input of a matrix product.
    pub(crate) input: Input,
    /// `[ropes, chunk, rotary_dim]`.
    pub(crate) rotations: Vec<f32>,
    /// `[threads, queries per key/value head, SCORE_TILE + 2]`.
    pub(crate) scores: Vec<f32>,
    /// `[vocab]` or `[chunk, VOCAB_TILE]`.
    pub(crate) logits: Vec<f32>,
    /// `[chunk]`; empty unless text is scored.
    pub(crate) tallies: Vec<Tally>,
    /// One embedding row as stored.
    pub(crate) row: Vec<u8>,
    /// `[chunk, query_rank]`.
    pub(crate) queries_down: Vec<f32>,
    /// `[chunk, heads, rank + rope_dim]`.
    pub(crate) latent_queries: Vec<f32>,
    /// `[chunk, max(plain_dim, rank)]`.
    pub(crate) head: Vec<f32>,
    /// Of mixtures; taken while one is worked on.
    pub(crate) experts: Option<Buffers>,
}

impl Scratch {
    /// Allocates all buffers and writes them, so that their memory is held from here on.
    ///
    /// # Errors
    /// [`ExecError::Layout`] if `layout` was made for another model, or for fewer than `threads`.
    pub(crate) fn new(
        spec: &DecoderSpec,
        layout: &ScratchLayout,
        threads: usize,
        row_bytes: usize,
    ) -> Result<Self, ExecError> {
        check(spec, layout, threads)?;
        // Not zero: zeroed memory would be mapped only when it is first used.
        let filled = |elements: usize| vec![f32::NAN; elements];
        let scored = layout.tallies * size_of::<f32>() / size_of::<Tally>();
        Ok(Self {
            chunk: layout.chunk,
            residual: filled(layout.residual),
            delta: filled(layout.delta),
            qkv: filled(layout.qkv),
            attended: filled(layout.attended),
            gate_up: filled(layout.gate_up),
            input: Input::with_capacity(layout.input)?,
            rotations: filled(layout.rotations),
            scores: filled(layout.scores),
            logits: filled(layout.logits),
            tallies: vec![Tally::EMPTY; scored],
            row: vec![0xff; row_bytes],
            queries_down: filled(layout.latent.queries_down),
            latent_queries: filled(layout.latent.queries),
            head: filled(layout.latent.head),
            experts: spec.experts.as_ref().map(|it| Buffers::new(&layout.experts, it, spec.hidden)),
        })
    }
}

/// Whether the layout is the one of this model.
fn check(spec: &DecoderSpec, layout: &ScratchLayout, threads: usize) -> Result<(), ExecError> {
    let wanted = if layout.tallies > 0 { LogitsWanted::All } else { LogitsWanted::Last };
    let own = ScratchLayout::new(spec, layout.chunk, threads, wanted);
    let buffers = [
        ("residual", own.residual, layout.residual),
        ("delta", own.delta, layout.delta),
        ("qkv", own.qkv, layout.qkv),
        ("attended", own.attended, layout.attended),
        ("gate_up", own.gate_up, layout.gate_up),
        ("input", own.input, layout.input),
        ("rotations", own.rotations, layout.rotations),
        ("scores", own.scores, layout.scores),
        ("logits", own.logits, layout.logits),
        ("tallies", own.tallies, layout.tallies),
        ("latent queries", own.latent.queries, layout.latent.queries),
        ("latent head", own.latent.head, layout.latent.head),
        ("queries down", own.latent.queries_down, layout.latent.queries_down),
        ("expert scores", own.experts.scores, layout.experts.scores),
        ("experts' tokens", own.experts.gathered, layout.experts.gathered),
        ("experts' sum", own.experts.mixed, layout.experts.mixed),
        ("experts' inside", own.experts.gated, layout.experts.gated),
    ];
    let short = buffers.into_iter().find(|(_, expected, actual)| actual < expected);
    match short {
        Some((buffer, expected, actual)) => Err(ExecError::Layout { buffer, expected, actual }),
        None => Ok(()),
    }
}
