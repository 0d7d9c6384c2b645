//! One layer of a decoder: attention, then the feed-forward part, on a chunk of tokens.

use std::ops::Range;
use std::sync::Mutex;

use overflowml_types::{DType, DecoderSpec, LayerSpec, QkNorm, ScratchLayout};

use crate::attention::Attend;
use crate::error::ExecError;
use crate::kernels::{Input, Kernels, MatrixRef};
use crate::kv::{Cell, LayerKv, Place};
use crate::latent::Latent;
use crate::maths::{AddScaled, Gate, RmsNorm, RmsNormInPlace};
use crate::pool::Pool;
use crate::rope::rotate;
use crate::scratch::Scratch;
use crate::source::WeightSource;
use crate::transposed::{Rows, add_product};
use crate::vector::Isa;
use crate::weights::{FeedForward, LayerWeights, Matrix, Mlp};

/// What every layer of a pass shares.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) spec: &'a DecoderSpec,
    pub(crate) pool: &'a Pool,
    pub(crate) kernels: Kernels,
    pub(crate) isa: Isa,
    /// Where each token belongs.
    pub(crate) places: &'a [Place],
    /// How many tokens.
    pub(crate) tokens: usize,
}

/// Where the rows of a product go: `out[token * stride + offset + row]`.
pub(crate) struct Target<'a> {
    pub(crate) out: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) offset: usize,
}

impl Pass<'_> {
    /// Adds the layer's attention and feed-forward parts to the residual stream.
    pub(crate) fn layer<S: WeightSource, C: Cell>(
        &self,
        layer: &LayerSpec,
        weights: &LayerWeights,
        kv: &mut LayerKv<C>,
        scratch: &mut Scratch,
        source: &mut S,
    ) -> Result<(), ExecError> {
        if let (Some(spec), Some(latent)) = (&self.spec.latent, &weights.latent) {
            let rotations = self.rotations(layer, scratch.chunk);
            let rotations = rotations.map_or(0..0, |(start, dim)| start..start + self.tokens * dim);
            let part = Latent { pass: self, spec, weights: latent, rotations };
            self.normalise(
                weights.attention_norm.as_deref(),
                &scratch.residual,
                &mut scratch.delta,
            );
            part.attend(kv, scratch, source)?;
        } else {
            self.project_qkv(weights, scratch, source)?;
            self.finish_qkv(layer, weights, scratch);
            self.store(kv, scratch);
            self.attend(layer, weights, kv, scratch);
        }
        self.project_out(weights, scratch, source)?;
        self.add_part(weights.attention_post_norm.as_deref(), scratch);
        self.normalise(weights.mlp_norm.as_deref(), &scratch.residual, &mut scratch.delta);
        match &weights.feed_forward {
            FeedForward::Dense(mlp) => self.feed_forward(mlp, scratch, source)?,
            FeedForward::Mixture(mixture) => self.mixture(mixture, scratch, source)?,
        }
        self.add_part(weights.mlp_post_norm.as_deref(), scratch);
        Ok(())
    }

    /// Multiplies a matrix with `x`, `[tokens, cols]`. `prepared` says which type the input was last
    /// prepared for, if it was from the same `x`.
    pub(crate) fn multiply<S: WeightSource>(
        &self,
        matrix: Matrix,
        x: &[f32],
        input: &mut Prepared<'_>,
        source: &mut S,
        mut target: Target<'_>,
    ) -> Result<(), ExecError> {
        let tokens = x.len() / matrix.cols;
        input.prepare(self, matrix.dtype, tokens, matrix.cols, x);
        source.each_run(matrix.index, &mut |run| {
            let matrix = MatrixRef {
                dtype: matrix.dtype,
                rows: run.rows,
                cols: matrix.cols,
                bytes: run.bytes,
            };
            let first_row = target.offset + run.first_row;
            let Target { out, stride, .. } = &mut target;
            self.kernels.matmul(self.pool, matrix, input.input, out, *stride, first_row);
        })?;
        Ok(())
    }

    /// [`Self::multiply`] where the matrix is stored `[in, out]`.
    pub(crate) fn multiply_transposed<S: WeightSource>(
        &self,
        matrix: Matrix,
        x: &[f32],
        source: &mut S,
        target: Target<'_>,
    ) -> Result<(), ExecError> {
        let Target { out, stride, offset } = target;
        let tokens = x.len() / matrix.rows;
        for out in out.chunks_mut(stride).take(tokens) {
            out[offset..offset + matrix.cols].fill(0.0);
        }
        source.each_run(matrix.index, &mut |run| {
            let rows = Rows {
                dtype: matrix.dtype,
                first: run.first_row,
                count: run.rows,
                cols: matrix.cols,
                bytes: run.bytes,
            };
            add_product((self.pool, self.isa), rows, (x, matrix.rows), (out, stride, offset));
        })?;
        Ok(())
    }

    /// Calls `work` with each row of `width` elements of `rows`, on all threads.
    pub(crate) fn for_rows(
        &self,
        rows: &mut [f32],
        width: usize,
        work: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        if rows.len() <= width {
            rows.chunks_exact_mut(width).enumerate().for_each(|(i, row)| work(i, row));
            return;
        }
        let rows = Mutex::new(rows.chunks_exact_mut(width).enumerate());
        self.pool.run(&|_, _| {
            while let Some((index, row)) = take_next(&rows) {
                work(index, row);
            }
        });
    }

    /// The input of a part: normalised where the family does that.
    fn normalise(&self, weight: Option<&[f32]>, residual: &[f32], out: &mut [f32]) {
        let hidden = self.spec.hidden;
        let (isa, eps) = (self.isa, self.spec.norm_eps);
        self.for_rows(&mut out[..self.tokens * hidden], hidden, |token, out| {
            let x = &residual[token * hidden..][..hidden];
            match weight {
                Some(weight) => isa.run(RmsNorm { x, weight, eps, out }),
                None => out.copy_from_slice(x),
            }
        });
    }

    fn project_qkv<S: WeightSource>(
        &self,
        weights: &LayerWeights,
        scratch: &mut Scratch,
        source: &mut S,
    ) -> Result<(), ExecError> {
        self.normalise(weights.attention_norm.as_deref(), &scratch.residual, &mut scratch.delta);
        let x = &scratch.delta[..self.tokens * self.spec.hidden];
        let stride = self.qkv_width();
        let mut input = Prepared::new(&mut scratch.input);
        let mut offset = 0;
        for &matrix in &weights.qkv {
            let target = Target { out: &mut scratch.qkv, stride, offset };
            self.multiply(matrix, x, &mut input, source, target)?;
            offset += matrix.rows;
        }
        Ok(())
    }

    /// Biases, norms and positions of queries and keys.
    fn finish_qkv(&self, layer: &LayerSpec, weights: &LayerWeights, scratch: &mut Scratch) {
        let width = self.qkv_width();
        let (query, kv) = (self.spec.query_width(), self.spec.kv_width());
        let rotations = self.rotations(layer, scratch.chunk);
        let rotations = rotations.map(|(start, dim)| (&scratch.rotations[start..], dim));
        self.for_rows(&mut scratch.qkv[..self.tokens * width], width, |token, row| {
            add_bias(row, weights.qkv_bias.as_deref());
            let (queries, rest) = row.split_at_mut(query);
            clip(&mut rest[kv..], self.spec.qkv_clip);
            for (heads, norm) in [
                (queries, weights.query_norm.as_deref()),
                (&mut rest[..kv], weights.key_norm.as_deref()),
            ] {
                self.norm_heads(heads, norm);
                clip(heads, self.spec.qkv_clip);
                if let Some((rotations, dim)) = rotations {
                    let rotation = &rotations[token * dim..][..dim];
                    let heads = heads.chunks_exact_mut(self.spec.head_dim);
                    heads.for_each(|head| rotate(head, rotation));
                }
            }
        });
    }

    /// Where the rotations of a layer's positions begin, and how wide one is.
    fn rotations(&self, layer: &LayerSpec, chunk: usize) -> Option<(usize, usize)> {
        let rope = layer.rope?;
        let before: usize = self.spec.ropes[..rope].iter().map(|rope| rope.rotary_dim).sum();
        Some((before * chunk, self.spec.ropes[rope].rotary_dim))
    }

    fn norm_heads(&self, heads: &mut [f32], weight: Option<&[f32]>) {
        let Some(weight) = weight else { return };
        let eps = self.spec.norm_eps;
        let width = match self.spec.qk_norm {
            QkNorm::PerHead => self.spec.head_dim,
            QkNorm::Whole | QkNorm::None => heads.len(),
        };
        for x in heads.chunks_exact_mut(width) {
            self.isa.run(RmsNormInPlace { x, weight, eps });
        }
    }

    fn store<C: Cell>(&self, kv: &mut LayerKv<C>, scratch: &Scratch) {
        let (query, width) = (self.spec.query_width(), self.spec.kv_width());
        let rows = scratch.qkv.chunks_exact(self.qkv_width());
        for (&place, row) in self.places.iter().zip(rows) {
            let (keys, values) = row[query..].split_at(width);
            kv.store(place, keys, values);
        }
    }

    /// Attention of every token and key/value head, on all threads.
    fn attend<C: Cell>(
        &self,
        layer: &LayerSpec,
        weights: &LayerWeights,
        kv: &LayerKv<C>,
        scratch: &mut Scratch,
    ) {
        let spec = self.spec;
        let (heads, dim) = (spec.kv_heads, spec.head_dim);
        let group = spec.heads / heads;
        let qkv = &scratch.qkv;
        let attended = &mut scratch.attended[..self.tokens * spec.query_width()];
        let parts = Mutex::new(attended.chunks_exact_mut(group * dim).enumerate());
        let tile = group * (ScratchLayout::SCORE_TILE + 2);
        let spaces = Mutex::new(scratch.scores.chunks_exact_mut(tile));
        self.pool.run(&|_, _| {
            let Some(space) = take_next(&spaces) else { return };
            while let Some((index, out)) = take_next(&parts) {
                let (token, head) = (index / heads, index % heads);
                let Place { sequence, position } = self.places[token];
                self.isa.run(Attend {
                    kv,
                    head: sequence * heads + head,
                    first: layer.window.map_or(0, |window| (position + 1).saturating_sub(window)),
                    end: position + 1,
                    scale: spec.scales.attention,
                    cap: spec.attention_softcap,
                    sinks: weights.sinks.as_ref().map(|all| &all[head * group..][..group]),
                    queries: &qkv[token * self.qkv_width() + head * group * dim..][..group * dim],
                    scratch: space,
                    out,
                });
            }
        });
    }

    fn project_out<S: WeightSource>(
        &self,
        weights: &LayerWeights,
        scratch: &mut Scratch,
        source: &mut S,
    ) -> Result<(), ExecError> {
        let hidden = self.spec.hidden;
        let x = &scratch.attended[..self.tokens * self.spec.attended_width()];
        let mut input = Prepared::new(&mut scratch.input);
        let target = Target { out: &mut scratch.delta, stride: hidden, offset: 0 };
        self.multiply(weights.out, x, &mut input, source, target)?;
        add_biases(&mut scratch.delta[..self.tokens * hidden], weights.out_bias.as_deref());
        Ok(())
    }

    fn feed_forward<S: WeightSource>(
        &self,
        weights: &Mlp,
        scratch: &mut Scratch,
        source: &mut S,
    ) -> Result<(), ExecError> {
        let (hidden, inner) = (self.spec.hidden, self.spec.intermediate);
        let half = self.tokens * inner;
        self.project_gate_up(weights, scratch, source)?;
        let (gate, up) = scratch.gate_up.split_at_mut(half);
        self.gate(weights.gate_up_bias.as_deref(), gate, &mut up[..half]);
        let mut input = Prepared::new(&mut scratch.input);
        let target = Target { out: &mut scratch.delta, stride: hidden, offset: 0 };
        self.multiply(weights.down, &scratch.gate_up[..half], &mut input, source, target)?;
        add_biases(&mut scratch.delta[..self.tokens * hidden], weights.down_bias.as_deref());
        Ok(())
    }

    /// `gate_up = [gate, up]`, each `[tokens, intermediate]`, whether stored as one matrix or two.
    fn project_gate_up<S: WeightSource>(
        &self,
        weights: &Mlp,
        scratch: &mut Scratch,
        source: &mut S,
    ) -> Result<(), ExecError> {
        let inner = self.spec.intermediate;
        let x = &scratch.delta[..self.tokens * self.spec.hidden];
        let (gate, up) = scratch.gate_up.split_at_mut(self.tokens * inner);
        let mut input = Prepared::new(&mut scratch.input);
        if let [both] = weights.gate_up.as_slice() {
            input.prepare(self, both.dtype, self.tokens, both.cols, x);
            let row_bytes = both.cols * both.dtype.size().get() as usize;
            source.each_run(both.index, &mut |run| {
                let parts: [(Range<usize>, &mut [f32]); 2] =
                    [(0..inner, &mut *gate), (inner..2 * inner, &mut *up)];
                for (half, out) in parts {
                    let from = run.first_row.max(half.start);
                    let to = (run.first_row + run.rows).min(half.end);
                    if from < to {
                        let bytes = &run.bytes[(from - run.first_row) * row_bytes..];
                        let (dtype, cols) = (both.dtype, both.cols);
                        let matrix = MatrixRef { dtype, rows: to - from, cols, bytes };
                        let row = from - half.start;
                        self.kernels.matmul(self.pool, matrix, input.input, out, inner, row);
                    }
                }
            })?;
            return Ok(());
        }
        for (&matrix, out) in weights.gate_up.iter().zip([gate, up]) {
            let target = Target { out, stride: inner, offset: 0 };
            self.multiply(matrix, x, &mut input, source, target)?;
        }
        Ok(())
    }

    fn gate(&self, bias: Option<&[f32]>, gate: &mut [f32], up: &mut [f32]) {
        let inner = self.spec.intermediate;
        if let Some((gate_bias, up_bias)) = bias.map(|bias| bias.split_at(inner)) {
            add_biases(gate, Some(gate_bias));
            add_biases(up, Some(up_bias));
        }
        let (isa, activation) = (self.isa, self.spec.activation);
        self.for_rows(gate, inner, |token, gate| {
            isa.run(Gate { activation, gate, up: &up[token * inner..][..inner] });
        });
    }

    /// Adds a part's result to the residual stream, normalised first where the family does that.
    fn add_part(&self, norm: Option<&[f32]>, scratch: &mut Scratch) {
        let hidden = self.spec.hidden;
        let (isa, eps, scale) = (self.isa, self.spec.norm_eps, self.spec.scales.residual);
        if let Some(weight) = norm {
            self.for_rows(&mut scratch.delta[..self.tokens * hidden], hidden, |_, x| {
                isa.run(RmsNormInPlace { x, weight, eps });
            });
        }
        let delta = &scratch.delta;
        self.for_rows(&mut scratch.residual[..self.tokens * hidden], hidden, |token, residual| {
            isa.run(AddScaled { residual, delta: &delta[token * hidden..][..hidden], scale });
        });
    }

    fn qkv_width(&self) -> usize {
        self.spec.query_width() + 2 * self.spec.kv_width()
    }
}

/// An input, prepared for one element type at a time.
pub(crate) struct Prepared<'a> {
    input: &'a mut Input,
    dtype: Option<DType>,
}

impl<'a> Prepared<'a> {
    /// Not yet prepared.
    pub(crate) fn new(input: &'a mut Input) -> Self {
        Self { input, dtype: None }
    }

    /// What was prepared.
    pub(crate) fn input(&self) -> &Input {
        self.input
    }

    /// Prepares `x`, unless it is already: all products of one `Prepared` are of the same `x`.
    pub(crate) fn prepare(
        &mut self,
        pass: &Pass<'_>,
        dtype: DType,
        tokens: usize,
        cols: usize,
        x: &[f32],
    ) {
        if self.dtype != Some(dtype) {
            pass.kernels.prepare(pass.pool, dtype, tokens, cols, x, self.input);
            self.dtype = Some(dtype);
        }
    }
}

/// The next of some parts that threads share. A panic of another thread is passed on by the pool.
pub(crate) fn take_next<I: Iterator>(parts: &Mutex<I>) -> Option<I::Item> {
    parts.lock().ok()?.next()
}

fn clip(values: &mut [f32], bound: Option<f32>) {
    if let Some(bound) = bound {
        values.iter_mut().for_each(|value| *value = value.clamp(-bound, bound));
    }
}

pub(crate) fn add_biases(rows: &mut [f32], bias: Option<&[f32]>) {
    if let Some(width) = bias.map(<[f32]>::len) {
        rows.chunks_exact_mut(width).for_each(|row| add_bias(row, bias));
    }
}

fn add_bias(row: &mut [f32], bias: Option<&[f32]>) {
    for (value, bias) in row.iter_mut().zip(bias.unwrap_or_default()) {
        *value += bias;
    }
}
