//! Dot products of bf16 weights with activations rounded to bf16, two at a time, by AVX-512's own instruction.

use half::bf16;

use crate::vector::Loop;

/// Rounds activations to bf16.
pub(super) struct Narrow<'a> {
    pub(super) x: &'a [f32],
    pub(super) out: &'a mut [bf16],
}

impl Loop for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for (out, x) in self.out.iter_mut().zip(self.x) {
            let bits = x.to_bits();
            // To nearest, ties to even; what is not a number stays none.
            let rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
            *out = bf16::from_bits(if x.is_nan() { 0x7fc0 } else { rounded as u16 });
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use imp::Pairs;

#[cfg(target_arch = "x86_64")]
mod imp {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_maskz_loadu_epi16,
        _mm512_reduce_add_ps, _mm512_setzero_ps,
    };

    use half::bf16;

    use super::super::Dot;

    /// `vdpbf16ps`: 16 partial sums, each of two products at a time.
    pub(in super::super) struct Pairs;

    /// Elements of a vector.
    const WIDTH: usize = 32;

    impl Dot for Pairs {
        type Input = bf16;
        const BYTES: usize = 2;

        #[inline(always)]
        fn tile<const FUSED: bool, const R: usize, const T: usize>(
            rows: [&[u8]; R],
            tokens: [&[bf16]; T],
        ) -> [[f32; T]; R] {
            let cols = tokens.first().map_or(0, |token| token.len());
            debug_assert!(rows.iter().all(|row| row.len() == 2 * cols));
            debug_assert!(tokens.iter().all(|token| token.len() == cols));
            let rows = rows.map(<[u8]>::as_ptr);
            let tokens = tokens.map(|token| token.as_ptr().cast::<u8>());
            // SAFETY: `Kernels` uses `Pairs` only where the processor has AVX-512 BW and BF16, inside
            // `Isa::run`, which compiles for them. All reads are within `cols` elements.
            unsafe { dots(rows, tokens, cols) }
        }
    }

    /// # Safety
    /// The processor must have AVX-512 F, BW and BF16, and every pointer must have `cols` elements of 2 bytes.
    #[inline(always)]
    unsafe fn dots<const R: usize, const T: usize>(
        rows: [*const u8; R],
        tokens: [*const u8; T],
        cols: usize,
    ) -> [[f32; T]; R] {
        // SAFETY: the caller has seen the processor's features, here and below.
        let mut sums = [[unsafe { _mm512_setzero_ps() }; T]; R];
        let mut col = 0;
        while col < cols {
            let mask = u32::MAX >> WIDTH.saturating_sub(cols - col).min(31);
            let load = |start: *const u8| {
                // SAFETY: `col` is inside the row.
                let place = unsafe { start.add(2 * col) };
                if cols - col >= WIDTH {
                    // SAFETY: a whole vector is inside.
                    whole(unsafe { _mm512_loadu_si512(place.cast()) })
                } else {
                    // SAFETY: the mask keeps reads inside.
                    whole(unsafe { _mm512_maskz_loadu_epi16(mask, place.cast()) })
                }
            };
            let x = tokens.map(load);
            for r in 0..R {
                let weights = load(rows[r]);
                for t in 0..T {
                    // SAFETY: as above.
                    sums[r][t] = unsafe { _mm512_dpbf16_ps(sums[r][t], weights, x[t]) };
                }
            }
            col += WIDTH;
        }
        // SAFETY: as above.
        sums.map(|sums| sums.map(|sum| unsafe { _mm512_reduce_add_ps(sum) }))
    }

    #[inline(always)]
    fn whole(bits: __m512i) -> __m512bh {
        // SAFETY: both are 64 bytes, of which every pattern is a value.
        unsafe { std::mem::transmute(bits) }
    }
}
