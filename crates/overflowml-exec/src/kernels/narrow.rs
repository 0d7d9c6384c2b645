//! Activations rounded to bf16.

use half::bf16;

use crate::vector::Loop;

/// Rounds `x` to nearest, ties to even.
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
            // What is not a number stays none.
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            *out = bf16::from_bits(if x.is_nan() { 0x7fc0 } else { rounded as u16 });
        }
    }
}
