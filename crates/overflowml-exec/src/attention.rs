//! Attention of one token over the cache: scores, softmax and the weighted sum of values.
//!
//! Positions are worked through in tiles at fixed absolute positions, with a running maximum and sum, so
//! that memory does not grow with the context, and the order of every sum depends on the token's position and
//! the layer's window only: never on chunks, threads or the size of the cache.

use overflowml_types::{KvLayout, ScratchLayout};

use crate::kv::{Cell, LayerKv};
use crate::maths::{exp, largest, soft_cap, sum_lanes};
use crate::vector::{Loop, multiply_add};

const LANES: usize = KvLayout::LANES;
const TILE: usize = ScratchLayout::SCORE_TILE;

/// Attention of some queries of one token, which share one key/value head.
pub(crate) struct Attend<'a, C> {
    /// The layer's cache, in which the token itself is already stored.
    pub(crate) kv: &'a LayerKv<C>,
    /// Which key/value head, counted through all sequences.
    pub(crate) head: usize,
    /// The first position that the token sees.
    pub(crate) first: usize,
    /// One more than the token's own position.
    pub(crate) end: usize,
    /// On every score.
    pub(crate) scale: f32,
    /// Then on every score, if the family does.
    pub(crate) cap: Option<f32>,
    /// One more score per query, which takes weight and adds nothing.
    pub(crate) sinks: Option<&'a [f32]>,
    /// `[queries, head_dim]`.
    pub(crate) queries: &'a [f32],
    /// `[queries, TILE + 2]`: overwritten.
    pub(crate) scratch: &'a mut [f32],
    /// `[queries, head_dim]`: overwritten.
    pub(crate) out: &'a mut [f32],
}

/// One query's share of the scratch: the scores of a tile, the largest so far and their sum.
pub(crate) struct Running<'a> {
    pub(crate) scores: &'a mut [f32; TILE],
    maximum: &'a mut f32,
    sum: &'a mut f32,
}

/// The positions of a tile that a token sees.
#[derive(Clone, Copy)]
pub(crate) struct Visible {
    /// The tile's first position.
    pub(crate) start: usize,
    /// The first one that is seen.
    pub(crate) low: usize,
    /// One more than the last one that is seen.
    pub(crate) high: usize,
}

impl<C: Cell> Loop for Attend<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(mut self) {
        self.out.fill(0.0);
        for (query, running) in self.scratch.chunks_exact_mut(TILE + 2).enumerate() {
            (running[TILE], running[TILE + 1]) = match self.sinks {
                Some(sinks) => (sinks[query], 1.0),
                None => (f32::NEG_INFINITY, 0.0),
            };
        }
        let mut start = self.first - self.first % TILE;
        while start < self.end {
            let visible =
                Visible { start, low: self.first.max(start), high: self.end.min(start + TILE) };
            self.score::<FUSED>(visible);
            self.accumulate::<FUSED>(visible);
            start += TILE;
        }
        self.normalise();
    }
}

impl<C: Cell> Attend<'_, C> {
    /// `scores[query][position] = queries[query] · keys[position]`, for the whole tile.
    #[inline(always)]
    fn score<const FUSED: bool>(&mut self, visible: Visible) {
        let count = self.scratch.len() / (TILE + 2);
        let mut query = 0;
        while query < count {
            query += match count - query {
                1 => self.score_some::<FUSED, 1>(visible, query),
                2 => self.score_some::<FUSED, 2>(visible, query),
                3 => self.score_some::<FUSED, 3>(visible, query),
                _ => self.score_some::<FUSED, 4>(visible, query),
            };
        }
    }

    /// [`Self::score`] for `N` queries at once, so that a key is widened once for all of them.
    #[inline(always)]
    fn score_some<const FUSED: bool, const N: usize>(
        &mut self,
        visible: Visible,
        query: usize,
    ) -> usize {
        let dim = self.kv.head_dim();
        let queries: [&[f32]; N] =
            std::array::from_fn(|n| &self.queries[(query + n) * dim..][..dim]);
        for part in 0..TILE / LANES {
            let position = visible.start + part * LANES;
            if position >= visible.high || position + LANES <= visible.low {
                continue;
            }
            let mut sums = [[0.0_f32; LANES]; N];
            for (d, keys) in self.kv.keys(self.head, position).iter().enumerate() {
                let keys = keys.map(Cell::widen);
                for n in 0..N {
                    for lane in 0..LANES {
                        sums[n][lane] =
                            multiply_add::<FUSED>(queries[n][d], keys[lane], sums[n][lane]);
                    }
                }
            }
            for (n, sums) in sums.iter().enumerate() {
                let scores = &mut self.scratch[(query + n) * (TILE + 2) + part * LANES..][..LANES];
                scores.copy_from_slice(sums);
            }
        }
        N
    }

    /// Turns the tile's scores into weights and adds the weighted values.
    #[inline(always)]
    fn accumulate<const FUSED: bool>(&mut self, visible: Visible) {
        let dim = self.kv.head_dim();
        let rows = self.scratch.chunks_exact_mut(TILE + 2).zip(self.out.chunks_exact_mut(dim));
        for (row, out) in rows {
            let Some(mut running) = Running::of(row) else { continue };
            let shrink = running.weigh::<FUSED>(visible, self.scale, self.cap);
            if shrink != 1.0 {
                out.iter_mut().for_each(|value| *value *= shrink);
            }
            let mut position = visible.low;
            while position < visible.high {
                let next = (position - position % LANES + LANES).min(visible.high);
                let values = self.kv.values(self.head, position, next - position);
                let weights = &running.scores[position - visible.start..next - visible.start];
                add_weighted::<FUSED, C>(weights, values, out);
                position = next;
            }
        }
    }

    /// Divides by the sum of the weights.
    #[inline(always)]
    fn normalise(self) {
        let dim = self.kv.head_dim();
        let rows = self.scratch.chunks_exact(TILE + 2).zip(self.out.chunks_exact_mut(dim));
        for (row, out) in rows {
            let inverse = 1.0 / row[TILE + 1];
            out.iter_mut().for_each(|value| *value *= inverse);
        }
    }
}

impl<'a> Running<'a> {
    #[inline(always)]
    pub(crate) fn of(row: &'a mut [f32]) -> Option<Self> {
        let (scores, rest) = row.split_first_chunk_mut::<TILE>()?;
        let [maximum, sum] = rest else { return None };
        Some(Self { scores, maximum, sum })
    }

    /// Scores become `e^(score - maximum)`, 0 where the token does not see; returns the factor by which
    /// everything weighed before shrinks.
    #[inline(always)]
    pub(crate) fn weigh<const FUSED: bool>(
        &mut self,
        visible: Visible,
        scale: f32,
        cap: Option<f32>,
    ) -> f32 {
        for score in self.scores.iter_mut() {
            *score *= scale;
        }
        if let Some(cap) = cap {
            for score in self.scores.iter_mut() {
                *score = soft_cap::<FUSED>(*score, cap);
            }
        }
        self.scores[..visible.low - visible.start].fill(f32::NEG_INFINITY);
        self.scores[visible.high - visible.start..].fill(f32::NEG_INFINITY);
        let maximum = largest(self.scores).max(*self.maximum);
        let shrink = exp::<FUSED>(*self.maximum - maximum);
        let mut lanes = [0.0_f32; LANES];
        for part in self.scores.as_chunks_mut::<LANES>().0 {
            for lane in 0..LANES {
                part[lane] = exp::<FUSED>(part[lane] - maximum);
                lanes[lane] += part[lane];
            }
        }
        *self.sum = *self.sum * shrink + sum_lanes(lanes);
        *self.maximum = maximum;
        shrink
    }
}

/// `out += Σ weights[i] * values[i]`, ascending.
#[inline(always)]
fn add_weighted<const FUSED: bool, C: Cell>(weights: &[f32], values: &[C], out: &mut [f32]) {
    let dim = out.len();
    let mut column = 0;
    while column + 4 * LANES <= dim {
        add_columns::<FUSED, C, { 4 * LANES }>(weights, values, dim, column, out);
        column += 4 * LANES;
    }
    while column + LANES <= dim {
        add_columns::<FUSED, C, LANES>(weights, values, dim, column, out);
        column += LANES;
    }
    while column < dim {
        add_columns::<FUSED, C, 1>(weights, values, dim, column, out);
        column += 1;
    }
}

/// [`add_weighted`] for `N` columns, whose sums stay in registers.
#[inline(always)]
fn add_columns<const FUSED: bool, C: Cell, const N: usize>(
    weights: &[f32],
    values: &[C],
    dim: usize,
    column: usize,
    out: &mut [f32],
) {
    let Some(out) = out[column..].first_chunk_mut::<N>() else { return };
    let mut sums = *out;
    for (row, &weight) in weights.iter().enumerate() {
        let Some(values) = values[row * dim + column..].first_chunk::<N>() else { return };
        for n in 0..N {
            sums[n] = multiply_add::<FUSED>(weight, values[n].widen(), sums[n]);
        }
    }
    *out = sums;
}
