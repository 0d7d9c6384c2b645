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
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            *out = bf16::from_bits(if x.is_nan() { 0x7fc0 } else { rounded as u16 });
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use imp::Pairs;

#[cfg(target_arch = "x86_64")]
mod imp {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_maskz_loadu_epi16,
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
            x: &[bf16],
        ) -> [[f32; T]; R] {
            let cols = rows.first().map_or(0, |row| row.len() / 2);
            assert!(x.len() == cols.next_multiple_of(WIDTH) * T, "the steps of rows and tokens");
            debug_assert!(rows.iter().all(|row| row.len() == 2 * cols));
            // SAFETY: `Kernels` uses `Pairs` only where the processor has AVX-512 BW and BF16, inside
            // `Isa::run`, which compiles for them. Rows have `cols` elements, and `x` was just checked.
            unsafe { dots(rows.map(<[u8]>::as_ptr), x.as_ptr().cast(), cols) }
        }
    }

    /// # Safety
    /// The processor must have AVX-512 F, BW and BF16, every row `cols` elements of 2 bytes, and `x` `T` vectors for every
    /// [`WIDTH`] of them, begun or whole.
    #[inline(always)]
    unsafe fn dots<const R: usize, const T: usize>(
        rows: [*const u8; R],
        x: *const u8,
        cols: usize,
    ) -> [[f32; T]; R] {
        // SAFETY: the caller has seen the processor's features.
        let mut sums = [[unsafe { _mm512_setzero_ps() }; T]; R];
        let even = cols - cols % WIDTH;
        let mut col = 0;
        while col < even {
            // SAFETY: the step at `col` has `T` vectors.
            let x = std::array::from_fn(|t| unsafe { load(x, col * T + t * WIDTH) });
            for r in 0..R {
                // SAFETY: a whole vector at `col` is inside.
                let weights = unsafe { load(rows[r], col) };
                // SAFETY: the caller has seen the processor's features.
                unsafe { add(weights, &x, &mut sums[r]) };
            }
            col += WIDTH;
        }
        if even < cols {
            let mask = u32::MAX >> (WIDTH - (cols - even));
            // SAFETY: the step at `even` has `T` vectors, filled up with zeros.
            let x = std::array::from_fn(|t| unsafe { load(x, even * T + t * WIDTH) });
            for r in 0..R {
                // SAFETY: the mask keeps the read inside.
                let weights = unsafe { load_some(rows[r], even, mask) };
                // SAFETY: the caller has seen the processor's features.
                unsafe { add(weights, &x, &mut sums[r]) };
            }
        }
        let mut totals = [[0.0; T]; R];
        for r in 0..R {
            for t in 0..T {
                // SAFETY: the caller has seen the processor's features.
                totals[r][t] = unsafe { _mm512_reduce_add_ps(sums[r][t]) };
            }
        }
        totals
    }

    /// # Safety
    /// The processor must have AVX-512 F and BF16.
    #[inline(always)]
    unsafe fn add<const T: usize>(weights: __m512bh, x: &[__m512bh; T], sums: &mut [__m512; T]) {
        for (sum, x) in sums.iter_mut().zip(x) {
            // SAFETY: the caller has seen the processor's features.
            *sum = unsafe { _mm512_dpbf16_ps(*sum, weights, *x) };
        }
    }

    /// # Safety
    /// The processor must have AVX-512 F, and `start` at least [`WIDTH`] elements from `col` on.
    #[inline(always)]
    unsafe fn load(start: *const u8, col: usize) -> __m512bh {
        // SAFETY: inside, as the caller says.
        let place = unsafe { start.add(2 * col) };
        // SAFETY: a whole vector is inside, as the caller says.
        whole(unsafe { _mm512_loadu_si512(place.cast()) })
    }

    /// # Safety
    /// The processor must have AVX-512 BW, and `start` as many elements from `col` on as `mask` has bits.
    #[inline(always)]
    unsafe fn load_some(start: *const u8, col: usize, mask: u32) -> __m512bh {
        // SAFETY: inside, as the caller says.
        let place = unsafe { start.add(2 * col) };
        // SAFETY: what the mask leaves out is not read.
        whole(unsafe { _mm512_maskz_loadu_epi16(mask, place.cast()) })
    }

    #[inline(always)]
    fn whole(bits: __m512i) -> __m512bh {
        // SAFETY: both are 64 bytes, of which every pattern is a value.
        unsafe { std::mem::transmute(bits) }
    }
}
