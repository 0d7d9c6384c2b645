//! AVX-512: weights widened to `f32`, or pairs of bf16 multiplied as they are.

use std::arch::x86_64::{
    __m256i, __m512, __m512bh, __m512i, _mm256_loadu_si256, _mm256_maskz_loadu_epi16,
    _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_maskz_loadu_epi16, _mm512_maskz_loadu_ps,
    _mm512_reduce_add_ps, _mm512_setzero_ps, _mm512_slli_epi32,
};
use std::marker::PhantomData;

use half::{bf16, f16};

use super::tile::Lanes;

/// Weights of type `W`, widened to `f32`.
pub(super) struct Widened<W>(PhantomData<W>);

/// Loading weights of one type as 16 `f32`.
///
/// # Safety
/// As [`Lanes::weights`] and [`Lanes::some_weights`], with AVX-512 F, BW and VL.
pub(super) trait Load: Sync {
    unsafe fn all(place: *const u8) -> __m512;
    unsafe fn some(place: *const u8, mask: u16) -> __m512;
}

impl Load for f32 {
    #[inline(always)]
    unsafe fn all(place: *const u8) -> __m512 {
        // SAFETY: 16 elements are there; any alignment will do.
        unsafe { _mm512_loadu_ps(place.cast()) }
    }

    #[inline(always)]
    unsafe fn some(place: *const u8, mask: u16) -> __m512 {
        // SAFETY: what the mask leaves out is not read.
        unsafe { _mm512_maskz_loadu_ps(mask, place.cast()) }
    }
}

impl Load for f16 {
    #[inline(always)]
    unsafe fn all(place: *const u8) -> __m512 {
        // SAFETY: 16 elements are there; any alignment will do.
        let stored = unsafe { _mm256_loadu_si256(place.cast()) };
        // SAFETY: the processor has AVX-512 F.
        unsafe { _mm512_cvtph_ps(stored) }
    }

    #[inline(always)]
    unsafe fn some(place: *const u8, mask: u16) -> __m512 {
        // SAFETY: what the mask leaves out is not read.
        let stored = unsafe { _mm256_maskz_loadu_epi16(mask, place.cast()) };
        // SAFETY: the processor has AVX-512 F.
        unsafe { _mm512_cvtph_ps(stored) }
    }
}

impl Load for bf16 {
    #[inline(always)]
    unsafe fn all(place: *const u8) -> __m512 {
        // SAFETY: 16 elements are there; any alignment will do.
        let stored = unsafe { _mm256_loadu_si256(place.cast()) };
        // SAFETY: the processor has AVX-512 F.
        unsafe { upper_halves(stored) }
    }

    #[inline(always)]
    unsafe fn some(place: *const u8, mask: u16) -> __m512 {
        // SAFETY: what the mask leaves out is not read.
        let stored = unsafe { _mm256_maskz_loadu_epi16(mask, place.cast()) };
        // SAFETY: the processor has AVX-512 F.
        unsafe { upper_halves(stored) }
    }
}

/// bf16 is the upper half of an `f32`.
///
/// # Safety
/// The processor must have AVX-512 F.
#[inline(always)]
unsafe fn upper_halves(stored: __m256i) -> __m512 {
    // SAFETY: the caller has seen the processor's features.
    let wide = unsafe { _mm512_cvtepu16_epi32(stored) };
    // SAFETY: as above.
    let shifted = unsafe { _mm512_slli_epi32::<16>(wide) };
    // SAFETY: as above.
    unsafe { _mm512_castsi512_ps(shifted) }
}

impl<W: Load> Lanes for Widened<W> {
    type Input = f32;
    const BYTES: usize = size_of::<W>();
    const WIDTH: usize = 16;
    type Values = __m512;
    type Sums = __m512;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: the caller has seen the processor's features.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn weights(place: *const u8) -> __m512 {
        // SAFETY: as the caller says.
        unsafe { W::all(place) }
    }

    #[inline(always)]
    unsafe fn some_weights(place: *const u8, count: usize) -> __m512 {
        // SAFETY: as the caller says: `count` elements are there, and the mask keeps to them.
        unsafe { W::some(place, u16::MAX >> (16 - count)) }
    }

    #[inline(always)]
    unsafe fn inputs(place: *const f32) -> __m512 {
        // SAFETY: 16 elements are there, as the caller says.
        unsafe { _mm512_loadu_ps(place) }
    }

    #[inline(always)]
    unsafe fn add<const FUSED: bool>(sums: __m512, weights: __m512, inputs: __m512) -> __m512 {
        // SAFETY: the caller has seen the processor's features.
        unsafe { _mm512_fmadd_ps(weights, inputs, sums) }
    }

    #[inline(always)]
    unsafe fn total(sums: __m512) -> f32 {
        // SAFETY: the caller has seen the processor's features.
        unsafe { _mm512_reduce_add_ps(sums) }
    }
}

/// `vdpbf16ps`: 16 partial sums, each of two products at a time; activations are rounded to bf16.
pub(super) struct Pairs;

impl Lanes for Pairs {
    type Input = bf16;
    const BYTES: usize = 2;
    const WIDTH: usize = 32;
    type Values = __m512bh;
    type Sums = __m512;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: the caller has seen the processor's features.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn weights(place: *const u8) -> __m512bh {
        // SAFETY: 32 elements are there; any alignment will do.
        as_bf16(unsafe { _mm512_loadu_si512(place.cast()) })
    }

    #[inline(always)]
    unsafe fn some_weights(place: *const u8, count: usize) -> __m512bh {
        let mask = u32::MAX >> (32 - count);
        // SAFETY: what the mask leaves out is not read.
        as_bf16(unsafe { _mm512_maskz_loadu_epi16(mask, place.cast()) })
    }

    #[inline(always)]
    unsafe fn inputs(place: *const bf16) -> __m512bh {
        // SAFETY: 32 elements are there, as the caller says.
        as_bf16(unsafe { _mm512_loadu_si512(place.cast()) })
    }

    #[inline(always)]
    unsafe fn add<const FUSED: bool>(sums: __m512, weights: __m512bh, inputs: __m512bh) -> __m512 {
        // SAFETY: the caller has seen the processor's features.
        unsafe { _mm512_dpbf16_ps(sums, weights, inputs) }
    }

    #[inline(always)]
    unsafe fn total(sums: __m512) -> f32 {
        // SAFETY: the caller has seen the processor's features.
        unsafe { _mm512_reduce_add_ps(sums) }
    }
}

#[inline(always)]
fn as_bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes, of which every pattern is a value.
    unsafe { std::mem::transmute(bits) }
}
