//! Weights widened to `f32` in ordinary loops over fixed-width arrays, which the compiler turns into the
//! instructions of whatever set it compiles them for.

use std::marker::PhantomData;

use half::{bf16, f16};

use super::tile::Lanes;
use crate::kv::Cell;
use crate::vector::multiply_add;

/// Elements of a step: two vectors of NEON or SSE.
const WIDTH: usize = 8;

/// Weights of type `W`.
pub(super) struct Portable<W>(PhantomData<W>);

/// A weight as it is stored: little-endian, as this processor has it, and of any pattern of bytes.
pub(super) trait Stored: Cell {}

const _: () = assert!(cfg!(target_endian = "little"), "weights are read as they are stored");

impl Stored for f32 {}
impl Stored for f16 {}
impl Stored for bf16 {}

impl<W: Stored> Lanes for Portable<W> {
    type Input = f32;
    const BYTES: usize = size_of::<W>();
    const WIDTH: usize = WIDTH;
    type Values = [f32; WIDTH];
    type Sums = [f32; WIDTH];

    #[inline(always)]
    unsafe fn zero() -> Self::Sums {
        [0.0; WIDTH]
    }

    #[inline(always)]
    unsafe fn weights(place: *const u8) -> Self::Values {
        // SAFETY: so many elements are there, and every pattern of bytes is a value.
        unsafe { place.cast::<[W; WIDTH]>().read_unaligned() }.map(W::widen)
    }

    #[inline(always)]
    unsafe fn some_weights(place: *const u8, count: usize) -> Self::Values {
        std::array::from_fn(|lane| {
            if lane < count {
                // SAFETY: the element is there, as the caller says.
                let place = unsafe { place.cast::<W>().add(lane) };
                // SAFETY: as above, and every pattern of bytes is a value.
                unsafe { place.read_unaligned() }.widen()
            } else {
                0.0
            }
        })
    }

    #[inline(always)]
    unsafe fn inputs(place: *const f32) -> Self::Values {
        // SAFETY: so many elements are there, as the caller says.
        unsafe { place.cast::<[f32; WIDTH]>().read() }
    }

    #[inline(always)]
    unsafe fn add<const FUSED: bool>(
        mut sums: Self::Sums,
        weights: Self::Values,
        inputs: Self::Values,
    ) -> Self::Sums {
        for lane in 0..WIDTH {
            sums[lane] = multiply_add::<FUSED>(weights[lane], inputs[lane], sums[lane]);
        }
        sums
    }

    #[inline(always)]
    unsafe fn total(mut sums: Self::Sums) -> f32 {
        let mut width = WIDTH;
        while width > 1 {
            width /= 2;
            for lane in 0..width {
                sums[lane] += sums[lane + width];
            }
        }
        sums[0]
    }
}
