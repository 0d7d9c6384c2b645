//! AVX2, FMA and F16C: weights widened to `f32`, 8 at a time.

use std::arch::x86_64::{
    __m256, _mm_loadu_si128, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps,
};
use std::marker::PhantomData;

use half::{bf16, f16};

use super::tile::Lanes;

/// Elements of a vector.
const WIDTH: usize = 8;

/// Weights of type `W`, widened to `f32`.
pub(super) struct Widened<W>(PhantomData<W>);

/// Loading weights of one type as `f32`.
///
/// # Safety
/// As [`Lanes::weights`], with AVX2 and F16C.
pub(super) trait Load: Sync {
    unsafe fn all(place: *const u8) -> __m256;
}

impl Load for f32 {
    #[inline(always)]
    unsafe fn all(place: *const u8) -> __m256 {
        // SAFETY: 8 elements are there; any alignment will do.
        unsafe { _mm256_loadu_ps(place.cast()) }
    }
}

impl Load for f16 {
    #[inline(always)]
    unsafe fn all(place: *const u8) -> __m256 {
        // SAFETY: 8 elements are there; any alignment will do.
        let stored = unsafe { _mm_loadu_si128(place.cast()) };
        // SAFETY: the processor has F16C.
        unsafe { _mm256_cvtph_ps(stored) }
    }
}

impl Load for bf16 {
    #[inline(always)]
    unsafe fn all(place: *const u8) -> __m256 {
        // SAFETY: 8 elements are there; any alignment will do.
        let stored = unsafe { _mm_loadu_si128(place.cast()) };
        // SAFETY: the processor has AVX2.
        let wide = unsafe { _mm256_cvtepu16_epi32(stored) };
        // SAFETY: as above. bf16 is the upper half of an `f32`.
        let shifted = unsafe { _mm256_slli_epi32::<16>(wide) };
        // SAFETY: as above.
        unsafe { _mm256_castsi256_ps(shifted) }
    }
}

impl<W: Load> Lanes for Widened<W> {
    type Input = f32;
    const BYTES: usize = size_of::<W>();
    const WIDTH: usize = WIDTH;
    type Values = __m256;
    type Sums = __m256;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: the caller has seen the processor's features.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn weights(place: *const u8) -> __m256 {
        // SAFETY: as the caller says.
        unsafe { W::all(place) }
    }

    #[inline(always)]
    unsafe fn some_weights(place: *const u8, count: usize) -> __m256 {
        let mut padded = [0_u8; WIDTH * size_of::<f32>()];
        let len = count.min(WIDTH) * size_of::<W>();
        // SAFETY: `len` bytes are at `place`, as the caller says, and in `padded`, whose elements have at most 4 bytes.
        unsafe { std::ptr::copy_nonoverlapping(place, padded.as_mut_ptr(), len) };
        // SAFETY: `padded` has 8 elements of any type; zeros are zero in all of them.
        unsafe { W::all(padded.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn inputs(place: *const f32) -> __m256 {
        // SAFETY: 8 elements are there, as the caller says.
        unsafe { _mm256_loadu_ps(place) }
    }

    #[inline(always)]
    unsafe fn add<const FUSED: bool>(sums: __m256, weights: __m256, inputs: __m256) -> __m256 {
        // SAFETY: the caller has seen the processor's features.
        unsafe { _mm256_fmadd_ps(weights, inputs, sums) }
    }

    #[inline(always)]
    unsafe fn total(sums: __m256) -> f32 {
        let mut lanes = [0.0_f32; WIDTH];
        // SAFETY: `lanes` has room for all 8.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sums) };
        let [a, b, c, d, e, f, g, h] = lanes;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}
