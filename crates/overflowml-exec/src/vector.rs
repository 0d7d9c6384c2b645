//! Plain loops, compiled once per instruction set and chosen at run time.
//!
//! Matrix products have hand-written kernels; everything else of a decoder (norms, gates, attention)
//! is written as ordinary loops over fixed-width arrays that the compiler vectorises well. This
//! module compiles them for the processor at hand.

/// The instruction set that loops are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// [`Isa::Avx512`] and BF16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What the target always has.
    Baseline,
}

/// A loop that [`Isa::run`] compiles per instruction set.
///
/// `run` and everything it calls must be `#[inline(always)]`: a function that is not inlined is
/// compiled for the baseline.
pub(crate) trait Loop {
    /// What the loop returns.
    type Output;

    /// Runs the loop; `FUSED` says whether [`multiply_add`] rounds once.
    fn run<const FUSED: bool>(self) -> Self::Output;
}

impl Isa {
    /// The best that this processor has.
    pub(crate) fn detect() -> Self {
        Self::all_available().first().copied().unwrap_or(Self::Baseline)
    }

    /// All that this processor has, best first.
    pub(crate) fn all_available() -> Vec<Self> {
        let mut all = vec![Self::Baseline];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("f16c") {
                all.insert(0, Self::Avx2);
                if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                    all.insert(0, Self::Avx512);
                    if has!("avx512bf16") {
                        all.insert(0, Self::Avx512Bf16);
                    }
                }
            }
        }
        all
    }

    /// For messages and stored measurements.
    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => "avx512-bf16",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            Self::Baseline => {
                if cfg!(target_arch = "aarch64") {
                    "neon"
                } else {
                    "portable"
                }
            }
        }
    }

    /// Runs `work`, compiled for this instruction set.
    #[inline]
    pub(crate) fn run<W: Loop>(self, work: W) -> W::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `all_available` is the only place that makes this variant, after it saw every
            // feature that `avx512_bf16` enables.
            Self::Avx512Bf16 => unsafe { avx512_bf16(work) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, for `avx512`.
            Self::Avx512 => unsafe { avx512(work) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, for `avx2`.
            Self::Avx2 => unsafe { avx2(work) },
            Self::Baseline => work.run::<{ cfg!(target_arch = "aarch64") }>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
fn avx512_bf16<W: Loop>(work: W) -> W::Output {
    work.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn avx512<W: Loop>(work: W) -> W::Output {
    work.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<W: Loop>(work: W) -> W::Output {
    work.run::<true>()
}

/// `a * b + c`, rounded once where the instruction set can (emulating that would be slow).
#[inline(always)]
pub(crate) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}
