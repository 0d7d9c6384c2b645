//! Attention by way of a latent vector: the cache holds one short vector per position, of which keys and values of
//! all heads are made.
//!
//! They are never made: a key's product with a query is that of the latent vector with the query times the key's
//! matrix, and the weighted sum of values is the value's matrix times the weighted sum of latent vectors.

use std::ops::Range;
use std::sync::Mutex;

use overflowml_types::{LatentSpec, LayerPart, ScratchLayout, WeightRole};

use crate::attention::{Running, Visible};
use crate::error::ExecError;
use crate::kv::{Cell, LayerKv, Place};
use crate::layer::{Pass, Prepared, Target, add_biases, take_next};
use crate::maths::{RmsNormInPlace, sum_lanes};
use crate::rope::{rotate, rotate_neighbours};
use crate::scratch::Scratch;
use crate::source::WeightSource;
use crate::vector::{Loop, multiply_add};
use crate::weights::{Finder, Matrix};

const TILE: usize = ScratchLayout::SCORE_TILE;
const LANES: usize = 16;

/// The weights of latent attention up to the values; the output projection is as in all layers.
#[derive(Debug)]
pub(crate) struct LatentWeights {
    query_down: Option<Down>,
    query: Matrix,
    latent_down: Down,
    /// Per head, `[plain_dim, rank]`.
    key_up: Vec<Matrix>,
    /// Per head, `[value_dim, rank]`.
    value_up: Vec<Matrix>,
}

/// A projection to few elements, and the norm of those.
#[derive(Debug)]
struct Down {
    matrix: Matrix,
    bias: Option<Vec<f32>>,
    norm: Vec<f32>,
}

impl LatentWeights {
    /// Finds a layer's weights.
    ///
    /// # Errors
    /// For one that is missing.
    pub(crate) fn find<S: WeightSource>(
        finder: &Finder<'_, S>,
        layer: u32,
        spec: &LatentSpec,
    ) -> Result<Self, ExecError> {
        use LayerPart as P;
        let role = |part| WeightRole::Layer(layer, part);
        let down = |matrix, bias, norm| {
            Ok::<_, ExecError>(Down {
                matrix: finder.matrix(role(matrix))?,
                bias: finder.joined(spec.bias, layer, &[bias])?,
                norm: finder.norm(role(norm))?,
            })
        };
        let query_down = || down(P::QueryDown, P::QueryDownBias, P::QueryDownNorm);
        let heads = |part: fn(u32) -> P| {
            let heads = 0..finder.spec.heads as u32;
            heads.map(|head| finder.matrix(role(part(head)))).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            query_down: spec.query_rank.map(|_| query_down()).transpose()?,
            query: finder.matrix(role(P::Query))?,
            latent_down: down(P::LatentDown, P::LatentDownBias, P::LatentNorm)?,
            key_up: heads(P::KeyUp)?,
            value_up: heads(P::ValueUp)?,
        })
    }
}

/// Latent attention of one layer in one pass.
pub(crate) struct Latent<'a> {
    pub(crate) pass: &'a Pass<'a>,
    pub(crate) spec: &'a LatentSpec,
    pub(crate) weights: &'a LatentWeights,
    /// Where the positions' rotations are.
    pub(crate) rotations: Range<usize>,
}

impl Latent<'_> {
    /// Leaves in `attended` what attention makes of the normalised `delta`.
    pub(crate) fn attend<S: WeightSource, C: Cell>(
        &self,
        kv: &mut LayerKv<C>,
        scratch: &mut Scratch,
        source: &mut S,
    ) -> Result<(), ExecError> {
        self.project(scratch, source)?;
        self.finish(scratch);
        let (queries, width) = (self.pass.spec.query_width(), self.pass.spec.projected_width());
        for (token, row) in scratch.qkv.chunks_exact(width).take(self.pass.tokens).enumerate() {
            kv.store_latent(self.pass.places[token], &row[queries..]);
        }
        self.keys_into_queries(scratch, source)?;
        self.scores(kv, scratch);
        self.values(scratch, source)
    }

    /// Queries and the latent vector, next to each other.
    fn project<S: WeightSource>(
        &self,
        scratch: &mut Scratch,
        source: &mut S,
    ) -> Result<(), ExecError> {
        let (pass, tokens) = (self.pass, self.pass.tokens);
        let stride = pass.spec.projected_width();
        let Scratch { delta, queries_down, input, qkv, .. } = scratch;
        let x = &delta[..tokens * pass.spec.hidden];
        let mut queries_from = x;
        if let (Some(down), Some(rank)) = (&self.weights.query_down, self.spec.query_rank) {
            let out = &mut queries_down[..tokens * rank];
            let target = Target { out: &mut *out, stride: rank, offset: 0 };
            pass.multiply(down.matrix, x, &mut Prepared::new(input), source, target)?;
            add_biases(out, down.bias.as_deref());
            let eps = self.spec.norm_eps;
            pass.for_rows(out, rank, |_, x| {
                pass.isa.run(RmsNormInPlace { x, weight: &down.norm, eps });
            });
            queries_from = out;
        }
        let target = Target { out: &mut *qkv, stride, offset: 0 };
        let mut prepared = Prepared::new(input);
        pass.multiply(self.weights.query, queries_from, &mut prepared, source, target)?;
        let target = Target { out: &mut *qkv, stride, offset: pass.spec.query_width() };
        let down = self.weights.latent_down.matrix;
        pass.multiply(down, x, &mut Prepared::new(input), source, target)
    }

    /// The latent vector's norm, and the positions of the parts that have one.
    fn finish(&self, scratch: &mut Scratch) {
        let (pass, spec) = (self.pass, self.spec);
        let (width, queries) = (pass.spec.projected_width(), pass.spec.query_width());
        let rotations = &scratch.rotations[self.rotations.clone()];
        let down = &self.weights.latent_down;
        pass.for_rows(&mut scratch.qkv[..pass.tokens * width], width, |token, row| {
            let (queries, latent) = row.split_at_mut(queries);
            add_biases(latent, down.bias.as_deref());
            let (x, shared) = latent.split_at_mut(spec.rank);
            pass.isa.run(RmsNormInPlace { x, weight: &down.norm, eps: spec.norm_eps });
            let heads = queries.chunks_exact_mut(spec.query_dim());
            let turned = heads.map(|head| &mut head[spec.plain_dim..]).chain([shared]);
            if rotations.is_empty() {
                return;
            }
            let rotation = &rotations[token * spec.rope_dim..][..spec.rope_dim];
            for part in turned {
                match spec.interleaved {
                    true => rotate_neighbours(part, rotation),
                    false => rotate(part, rotation),
                }
            }
        });
    }

    /// Queries as the cache wants them: `[tokens, heads, rank + rope_dim]`.
    fn keys_into_queries<S: WeightSource>(
        &self,
        scratch: &mut Scratch,
        source: &mut S,
    ) -> Result<(), ExecError> {
        let (pass, spec) = (self.pass, self.spec);
        let (width, plain) = (spec.width(), spec.plain_dim);
        let stride = pass.spec.heads * width;
        let Scratch { qkv, head: x, latent_queries, .. } = scratch;
        let x = &mut x[..pass.tokens * plain];
        for (head, &matrix) in self.weights.key_up.iter().enumerate() {
            let rows = qkv.chunks_exact(pass.spec.projected_width()).zip(x.chunks_exact_mut(plain));
            for (token, (row, x)) in rows.enumerate() {
                let query = &row[head * spec.query_dim()..][..spec.query_dim()];
                x.copy_from_slice(&query[..plain]);
                let out = &mut latent_queries[token * stride + head * width..][..width];
                out[spec.rank..].copy_from_slice(&query[plain..]);
            }
            let target = Target { out: &mut *latent_queries, stride, offset: head * width };
            pass.multiply_transposed(matrix, x, source, target)?;
        }
        Ok(())
    }

    /// Every query becomes the weighted sum of the latent vectors that it sees.
    fn scores<C: Cell>(&self, kv: &LayerKv<C>, scratch: &mut Scratch) {
        let (pass, spec) = (self.pass, self.spec);
        let (width, heads) = (spec.width(), pass.spec.heads);
        let all = &mut scratch.latent_queries[..pass.tokens * heads * width];
        let parts = Mutex::new(all.chunks_exact_mut(width).enumerate());
        let spaces = Mutex::new(scratch.scores.chunks_exact_mut(TILE + 2 + width));
        pass.pool.run(&|_, _| {
            let Some(space) = take_next(&spaces) else { return };
            while let Some((index, both)) = take_next(&parts) {
                let (running, query) = space.split_at_mut(TILE + 2);
                query.copy_from_slice(both);
                let (rank, scale) = (spec.rank, pass.spec.scales.attention);
                let Place { sequence, position } = pass.places[index / heads];
                let (end, out) = (position + 1, &mut both[..rank]);
                pass.isa.run(AttendLatent { kv, sequence, end, scale, query, running, out });
            }
        });
    }

    /// `[tokens, heads, value_dim]`.
    fn values<S: WeightSource>(
        &self,
        scratch: &mut Scratch,
        source: &mut S,
    ) -> Result<(), ExecError> {
        let (pass, spec) = (self.pass, self.spec);
        let (width, rank, stride) = (spec.width(), spec.rank, pass.spec.attended_width());
        let Scratch { latent_queries, head: x, input, attended, .. } = scratch;
        let x = &mut x[..pass.tokens * rank];
        for (head, &matrix) in self.weights.value_up.iter().enumerate() {
            let rows = latent_queries.chunks_exact(pass.spec.heads * width);
            for (row, x) in rows.zip(x.chunks_exact_mut(rank)) {
                x.copy_from_slice(&row[head * width..][..rank]);
            }
            let target = Target { out: &mut *attended, stride, offset: head * spec.value_dim };
            pass.multiply(matrix, x, &mut Prepared::new(input), source, target)?;
        }
        Ok(())
    }
}

/// Attention of one query over latent vectors.
struct AttendLatent<'a, C> {
    kv: &'a LayerKv<C>,
    sequence: usize,
    /// One more than the token's own position.
    end: usize,
    scale: f32,
    /// `[width]`.
    query: &'a [f32],
    /// `[TILE + 2]`: overwritten.
    running: &'a mut [f32],
    /// `[rank]`: overwritten.
    out: &'a mut [f32],
}

impl<C: Cell> Loop for AttendLatent<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Self { kv, sequence, end, scale, query, running, out } = self;
        out.fill(0.0);
        (running[TILE], running[TILE + 1]) = (f32::NEG_INFINITY, 0.0);
        for start in (0..end).step_by(TILE) {
            let visible = Visible { start, low: start, high: end.min(start + TILE) };
            let positions = visible.low..visible.high;
            for (score, position) in running.iter_mut().zip(positions.clone()) {
                *score = dot::<FUSED, C>(query, kv.latent(sequence, position, query.len()));
            }
            let Some(mut running) = Running::of(running) else { return };
            let shrink = running.weigh::<FUSED>(visible, scale, None);
            if shrink != 1.0 {
                out.iter_mut().for_each(|value| *value *= shrink);
            }
            for (&weight, position) in running.scores.iter().zip(positions) {
                let values = kv.latent(sequence, position, query.len());
                for (out, value) in out.iter_mut().zip(values) {
                    *out = multiply_add::<FUSED>(weight, value.widen(), *out);
                }
            }
        }
        let inverse = 1.0 / running[TILE + 1];
        out.iter_mut().for_each(|value| *value *= inverse);
    }
}

/// `query · key`, in [`LANES`] partial sums.
#[inline(always)]
fn dot<const FUSED: bool, C: Cell>(query: &[f32], key: &[C]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (queries, rest) = query.as_chunks::<LANES>();
    let (keys, rest_keys) = key.as_chunks::<LANES>();
    for (query, key) in queries.iter().zip(keys) {
        for lane in 0..LANES {
            lanes[lane] = multiply_add::<FUSED>(query[lane], key[lane].widen(), lanes[lane]);
        }
    }
    for (lane, (query, key)) in rest.iter().zip(rest_keys).enumerate() {
        lanes[lane] = multiply_add::<FUSED>(*query, key.widen(), lanes[lane]);
    }
    sum_lanes(lanes)
}
