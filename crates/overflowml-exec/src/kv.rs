//! The key/value cache: what attention remembers of earlier positions.
//!
//! A layer without a window has a cell for every position of the session; a layer with one has a ring
//! that holds its window and the chunk being worked on. Keys of [`KvLayout::LANES`] neighbouring
//! positions are interleaved, so that scoring a query against them needs no sum across a vector.

use half::{bf16, f16};
use overflowml_types::{DType, DecoderSpec, KvLayout};

use crate::error::ExecError;

const LANES: usize = KvLayout::LANES;

/// A stored key or value element.
pub(crate) trait Cell: Copy + Send + Sync + 'static {
    /// Exactly.
    fn widen(self) -> f32;
    /// To nearest, ties to even; what is not a number stays none.
    fn narrow(value: f32) -> Self;
}

impl Cell for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }
}

impl Cell for bf16 {
    // Not `to_f32`: its care for signalling NaNs costs a branch per element.
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Cell for f16 {
    // Plain arithmetic that vectorises: the half's exponent and fraction, read as those of an f32, are
    // too small by a factor of 2^112; infinities and NaNs need their exponent filled up again.
    #[inline(always)]
    fn widen(self) -> f32 {
        const SCALE: f32 = f32::from_bits((127 + 112) << 23);
        let bits = u32::from(self.to_bits());
        let size = f32::from_bits((bits & 0x7fff) << 13) * SCALE;
        let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
        f32::from_bits(size.to_bits() | special | (bits & 0x8000) << 16)
    }

    /// What is beyond the range becomes its end: an infinity would spoil every score.
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self::from_f32(value.clamp(Self::MIN.to_f32_const(), Self::MAX.to_f32_const()))
    }
}

/// Keys and values of every layer and sequence.
#[derive(Debug)]
pub(crate) struct KvCache {
    layers: Layers,
    windows: Vec<Option<usize>>,
    sequences: Vec<Extent>,
}

/// How far a sequence has come.
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    /// Positions that are valid.
    len: usize,
    /// One more than the highest position that was ever written since the start, even by a pass that was
    /// abandoned: a ring has lost what lies `cells` before it.
    written: usize,
}

/// Where a token's keys and values go.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    pub(crate) sequence: usize,
    pub(crate) position: usize,
}

/// All layers, by element type.
#[derive(Debug)]
pub(crate) enum Layers {
    F32(Vec<LayerKv<f32>>),
    F16(Vec<LayerKv<f16>>),
    BF16(Vec<LayerKv<bf16>>),
}

/// Keys and values of one layer. A sequence's heads follow those of the one before it.
#[derive(Debug)]
pub(crate) struct LayerKv<C> {
    cells: usize,
    head_dim: usize,
    /// `[sequences * kv_heads, cells / LANES, head_dim, LANES]`.
    keys: Vec<C>,
    /// `[sequences * kv_heads, cells, head_dim]`; of latent attention, `[sequences, cells, width]` and no keys.
    values: Vec<C>,
}

impl KvCache {
    /// Allocates the cache and writes all of it, so that its memory is held from here on.
    ///
    /// # Errors
    /// [`ExecError::CacheType`] for an element type that keys cannot be stored in, [`ExecError::Layout`]
    /// for a layout that `context` positions, fed in chunks of `chunk`, do not fit.
    pub(crate) fn new(
        spec: &DecoderSpec,
        layout: &KvLayout,
        context: usize,
        chunk: usize,
    ) -> Result<Self, ExecError> {
        let own = KvLayout::new(spec, layout.dtype, context, chunk);
        let own = own.for_sequences(layout.sequences);
        if *layout != own {
            let [expected, actual] = [&own, layout]
                .map(|kv| kv.cells.iter().sum::<usize>() * (kv.width + kv.value_width));
            return Err(ExecError::Layout { buffer: "kv", expected, actual });
        }
        let layers = match layout.dtype {
            DType::F32 => Layers::F32(allocate(spec, layout)),
            DType::F16 => Layers::F16(allocate(spec, layout)),
            DType::BF16 => Layers::BF16(allocate(spec, layout)),
            dtype => return Err(ExecError::CacheType { dtype }),
        };
        let windows = spec.layers.iter().map(|layer| layer.window).collect();
        Ok(Self { layers, windows, sequences: vec![Extent::default(); layout.sequences] })
    }

    /// How many sequences there are.
    pub(crate) fn sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Positions of a sequence that are remembered; its next token's position.
    pub(crate) fn len(&self, sequence: usize) -> usize {
        self.sequences[sequence].len
    }

    /// The layers, for a pass.
    pub(crate) fn layers_mut(&mut self) -> &mut Layers {
        &mut self.layers
    }

    /// Notes that a pass is about to write the next `tokens` positions of a sequence.
    pub(crate) fn begin(&mut self, sequence: usize, tokens: usize) {
        let extent = &mut self.sequences[sequence];
        extent.written = extent.written.max(extent.len + tokens);
    }

    /// Makes the next `tokens` positions of a sequence valid: the pass is complete.
    pub(crate) fn commit(&mut self, sequence: usize, tokens: usize) {
        self.sequences[sequence].len += tokens;
    }

    /// Forgets every position of a sequence.
    pub(crate) fn reset(&mut self, sequence: usize) {
        self.sequences[sequence] = Extent::default();
    }

    /// Forgets everything of a sequence from `len` on.
    ///
    /// # Errors
    /// [`ExecError::Truncate`] if `len` is beyond the end, or so far back that a windowed layer has already
    /// overwritten what the next token would see. The cache is unchanged then.
    pub(crate) fn truncate(&mut self, sequence: usize, len: usize) -> Result<(), ExecError> {
        let Extent { len: present, written } = self.sequences[sequence];
        let oldest = self.oldest_position(written);
        if len > present || len < oldest {
            return Err(ExecError::Truncate { wanted: len, oldest, len: present });
        }
        self.sequences[sequence].len = len;
        Ok(())
    }

    /// The earliest position that a sequence can be truncated to, other than by a reset.
    fn oldest_position(&self, written: usize) -> usize {
        let kept = self.layers.cells();
        let lost = kept.zip(&self.windows).filter_map(|(cells, &window)| {
            let lost = written.saturating_sub(cells);
            // The next token, at `len`, sees back to `len + 1 - window`, which must not be lost.
            (lost > 0).then(|| lost + window.unwrap_or(usize::MAX).saturating_sub(1))
        });
        lost.max().unwrap_or(0)
    }
}

impl Layers {
    fn cells(&self) -> impl Iterator<Item = usize> {
        let of = |layer: usize| match self {
            Self::F32(layers) => layers.get(layer).map(|kv| kv.cells),
            Self::F16(layers) => layers.get(layer).map(|kv| kv.cells),
            Self::BF16(layers) => layers.get(layer).map(|kv| kv.cells),
        };
        (0..).map_while(of)
    }
}

fn allocate<C: Cell>(spec: &DecoderSpec, layout: &KvLayout) -> Vec<LayerKv<C>> {
    // Not zero: zeroed memory would be mapped only when it is first used.
    let filled = |elements: usize| vec![C::narrow(f32::NAN); elements * layout.sequences];
    let layer = |&cells: &usize| LayerKv {
        cells,
        head_dim: spec.head_dim,
        keys: filled(cells * layout.width),
        values: filled(cells * layout.value_width),
    };
    layout.cells.iter().map(layer).collect()
}

impl<C: Cell> LayerKv<C> {
    /// Stores one position's keys and values, each `[kv_heads, head_dim]`.
    pub(crate) fn store(&mut self, place: Place, keys: &[f32], values: &[f32]) {
        let cell = place.position % self.cells;
        let (tile, lane) = (cell / LANES, cell % LANES);
        let dim = self.head_dim;
        let first = place.sequence * (keys.len() / dim);
        for (head, keys) in (first..).zip(keys.chunks_exact(dim)) {
            let tiles =
                &mut self.keys[head * self.cells * dim..][tile * LANES * dim..][..LANES * dim];
            for (column, &key) in tiles.chunks_exact_mut(LANES).zip(keys) {
                column[lane] = C::narrow(key);
            }
        }
        for (head, values) in (first..).zip(values.chunks_exact(dim)) {
            let cells = &mut self.values[(head * self.cells + cell) * dim..][..dim];
            for (cell, &value) in cells.iter_mut().zip(values) {
                *cell = C::narrow(value);
            }
        }
    }

    /// Stores the vector that one position's keys and values are made from.
    pub(crate) fn store_latent(&mut self, place: Place, latent: &[f32]) {
        let cell = place.sequence * self.cells + place.position % self.cells;
        let cells = &mut self.values[cell * latent.len()..][..latent.len()];
        for (cell, &value) in cells.iter_mut().zip(latent) {
            *cell = C::narrow(value);
        }
    }

    /// What was stored of one position, `width` elements.
    #[inline(always)]
    pub(crate) fn latent(&self, sequence: usize, position: usize, width: usize) -> &[C] {
        &self.values[(sequence * self.cells + position % self.cells) * width..][..width]
    }

    /// Elements of one head.
    #[inline(always)]
    pub(crate) fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Keys of the [`LANES`] positions from `position`, a multiple of it: `[head_dim, LANES]`.
    #[inline(always)]
    pub(crate) fn keys(&self, head: usize, position: usize) -> &[[C; LANES]] {
        let cell = position % self.cells;
        let start = (head * self.cells + cell) * self.head_dim;
        self.keys[start..start + LANES * self.head_dim].as_chunks().0
    }

    /// Values of the `count` positions from `position`, which lie in one run of [`LANES`]:
    /// `[count, head_dim]`.
    #[inline(always)]
    pub(crate) fn values(&self, head: usize, position: usize, count: usize) -> &[C] {
        let cell = position % self.cells;
        let start = (head * self.cells + cell) * self.head_dim;
        &self.values[start..start + count * self.head_dim]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_precision_number_widens_exactly() {
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            let brain = bf16::from_bits(bits);
            if half.is_nan() {
                assert!(Cell::widen(half).is_nan());
            } else {
                assert_eq!(Cell::widen(half).to_bits(), half.to_f32().to_bits(), "f16 {bits:#06x}");
            }
            if brain.is_nan() {
                assert!(Cell::widen(brain).is_nan());
            } else {
                assert_eq!(Cell::widen(brain).to_bits(), brain.to_f32().to_bits());
            }
        }
    }

    #[test]
    fn a_ring_keeps_the_latest_positions_where_attention_looks_for_them() {
        let mut kv = LayerKv {
            cells: 32,
            head_dim: 2,
            keys: vec![f32::NAN; 2 * 2 * 32],
            values: vec![f32::NAN; 2 * 2 * 32],
        };
        for position in 0..75 {
            let of = |i: usize| (position * 10 + i) as f32;
            let place = Place { sequence: 0, position };
            kv.store(place, &[of(0), of(1), of(2), of(3)], &[of(4), of(5), of(6), of(7)]);
        }
        for position in 48..75_usize {
            let keys = kv.keys(1, position / LANES * LANES);
            let lane = position % LANES;
            assert_eq!(keys[0][lane], (position * 10 + 2) as f32);
            assert_eq!(keys[1][lane], (position * 10 + 3) as f32);
            assert_eq!(kv.values(0, position, 1), [4, 5].map(|i| (position * 10 + i) as f32));
        }
    }
}
