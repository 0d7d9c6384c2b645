//! Which element types a processor multiplies natively.

use serde::{Deserialize, Serialize};

use crate::machine::{Cpu, Gpu, IsaExtension, Vendor};

/// What a device can do with one element type. Three different questions: a type can be stored anywhere, multiplied
/// only where the hardware can, and used only where somebody wrote the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Support {
    /// Weights can be kept in it, and widened when they are used.
    pub store: bool,
    /// The hardware multiplies it natively.
    pub compute: bool,
    /// For a GPU: PyTorch's usual libraries have a kernel for it on this architecture. For a CPU: our own engine has.
    pub kernel: bool,
}

impl Support {
    /// Only kept.
    const STORED: Self = Self { store: true, compute: false, kernel: false };
    /// Multiplied by hardware for which libraries have no kernel, or not all of them.
    const HARDWARE: Self = Self { store: true, compute: true, kernel: false };
    /// All three.
    const FULL: Self = Self { store: true, compute: true, kernel: true };
}

/// How a device encodes 8-bit floating point: the same byte means different numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fp8Kind {
    /// As the Open Compute Project defines it, and as files store it.
    Ocp,
    /// AMD's earlier one, with another exponent bias and no negative zero: converted on loading.
    Fnuz,
}

/// What a device can do with each element type that models are stored or computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DTypeSupport {
    /// Whether the architecture is known; if not, the hardware is taken to do nothing.
    pub known: bool,
    /// 16-bit floating point with a short exponent.
    pub fp16: Support,
    /// 16-bit floating point with the exponent of 32 bits.
    pub bf16: Support,
    /// 8-bit integers.
    pub int8: Support,
    /// 8-bit floating point with one scale for a tensor, row or block.
    pub fp8: Support,
    /// How `fp8` is encoded where it is computed.
    pub fp8_kind: Option<Fp8Kind>,
    /// 8-bit floating point with a scale for each 32 elements.
    pub mxfp8: Support,
    /// 4-bit floating point with a scale for each 16 or 32 elements.
    pub fp4: Support,
}

impl DTypeSupport {
    /// Everything can be stored, nothing is known to be computed.
    const UNKNOWN: Self = Self {
        known: false,
        fp16: Support::STORED,
        bf16: Support::STORED,
        int8: Support::STORED,
        fp8: Support::STORED,
        fp8_kind: None,
        mxfp8: Support::STORED,
        fp4: Support::STORED,
    };

    const FP16: Self = Self { known: true, fp16: Support::FULL, ..Self::UNKNOWN };
    const FP16_INT8: Self = Self { int8: Support::FULL, ..Self::FP16 };
    const BF16_INT8: Self = Self { bf16: Support::FULL, ..Self::FP16_INT8 };
    const FP8: Self = Self { fp8: Support::FULL, fp8_kind: Some(Fp8Kind::Ocp), ..Self::BF16_INT8 };
    const FP4: Self = Self { mxfp8: Support::FULL, fp4: Support::FULL, ..Self::FP8 };

    /// Of an accelerator, by its architecture.
    pub fn of(gpu: &Gpu) -> Self {
        let architecture = gpu.architecture.as_deref();
        match gpu.vendor {
            Vendor::Nvidia => gpu
                .compute_capability
                .or_else(|| capability(architecture?))
                .map_or(Self::UNKNOWN, Self::of_nvidia),
            Vendor::Amd => architecture.map_or(Self::UNKNOWN, Self::of_amd),
            Vendor::Intel => architecture.map_or(Self::UNKNOWN, Self::of_intel),
            Vendor::Apple => architecture.map_or(Self::UNKNOWN, Self::of_apple),
            Vendor::Other => Self::UNKNOWN,
        }
    }

    /// Of a processor: what its instruction sets multiply, and what our engine's kernels take.
    pub fn of_cpu(cpu: &Cpu) -> Self {
        use IsaExtension as E;
        let any = |wanted: &[E]| wanted.iter().any(|own| cpu.extensions.contains(own));
        let with = |compute, kernel| Support { store: true, compute, kernel };
        Self {
            known: !cpu.extensions.is_empty(),
            // The engine widens 16-bit weights in registers where there is no product of them.
            fp16: with(any(&[E::Avx512fp16]), true),
            bf16: with(any(&[E::Avx512bf16, E::AmxBf16, E::Bf16]), true),
            int8: with(any(&[E::AvxVnni, E::Avx512vnni, E::AmxInt8, E::Dotprod, E::I8mm]), false),
            ..Self::UNKNOWN
        }
    }

    fn of_nvidia(capability: (u32, u32)) -> Self {
        match capability {
            // 6.1 has 16-bit products, at a sixty-fourth of the speed.
            (6, 1) => Self { known: true, ..Self::UNKNOWN },
            (5, 3) | (6, 0 | 2) | (7, 0 | 2) => Self::FP16,
            (7, 5) => Self::FP16_INT8,
            (8, 0..=8) => Self::BF16_INT8,
            (8, 9) | (9, _) => Self::FP8,
            (10 | 11, _) => Self::FP4,
            (12, _) => Self { mxfp8: Support::HARDWARE, fp4: Support::HARDWARE, ..Self::FP4 },
            (..=5, _) => Self { known: true, ..Self::UNKNOWN },
            _ => Self::UNKNOWN,
        }
    }

    fn of_amd(target: &str) -> Self {
        match target {
            t if t.starts_with("gfx94") => Self { fp8_kind: Some(Fp8Kind::Fnuz), ..Self::FP8 },
            t if t.starts_with("gfx95") => Self::FP4,
            "gfx90a" | "gfx908" => Self::BF16_INT8,
            t if t.starts_with("gfx11") => Self::BF16_INT8,
            t if t.starts_with("gfx12") => Self::FP8,
            t if t.starts_with("gfx9") || t.starts_with("gfx10") => Self::FP16,
            _ => Self::UNKNOWN,
        }
    }

    fn of_intel(architecture: &str) -> Self {
        match architecture {
            "xe-hpg" | "xe-hpc" | "xe2" | "xe3" => Self::BF16_INT8,
            "gen9" | "gen11" | "xe-lp" | "xe-lpg" => Self::FP16,
            _ => Self::UNKNOWN,
        }
    }

    fn of_apple(architecture: &str) -> Self {
        match architecture {
            // Metal emulates bfloat16 on the first generation.
            "apple-m1" => Self::FP16,
            a if a.starts_with("apple-m") => Self { bf16: Support::FULL, ..Self::FP16 },
            _ => Self::UNKNOWN,
        }
    }
}

/// `sm_89` is (8, 9), `sm_120` is (12, 0).
fn capability(architecture: &str) -> Option<(u32, u32)> {
    let digits = architecture.strip_prefix("sm_")?;
    let (major, minor) = digits.split_at_checked(digits.len().checked_sub(1)?)?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One letter for each of fp16, bf16, int8, fp8, mxfp8, fp4: `Y` computed with kernels, `h` by hardware alone,
    /// `-` only stored.
    fn row(support: DTypeSupport) -> String {
        let columns =
            [support.fp16, support.bf16, support.int8, support.fp8, support.mxfp8, support.fp4];
        let cell = |own: Support| {
            assert!(own.store, "storing needs no hardware");
            match (own.compute, own.kernel) {
                (true, true) => 'Y',
                (true, false) => 'h',
                (false, true) => 'k',
                (false, false) => '-',
            }
        };
        columns.into_iter().map(cell).collect()
    }

    #[test]
    fn nvidia_s_rows_are_those_of_the_table() {
        let rows = [
            ((6, 1), "------"),
            ((7, 0), "Y-----"),
            ((7, 5), "Y-Y---"),
            ((8, 0), "YYY---"),
            ((8, 6), "YYY---"),
            ((8, 7), "YYY---"),
            ((8, 9), "YYYY--"),
            ((9, 0), "YYYY--"),
            ((10, 0), "YYYYYY"),
            ((10, 3), "YYYYYY"),
            ((12, 0), "YYYYhh"),
            ((12, 1), "YYYYhh"),
        ];
        for (capability, expected) in rows {
            let support = DTypeSupport::of_nvidia(capability);
            assert_eq!(row(support), expected, "{capability:?}");
            assert!(support.known);
            let fp8 = support.fp8.compute.then_some(Fp8Kind::Ocp);
            assert_eq!(support.fp8_kind, fp8, "{capability:?}");
        }
    }

    #[test]
    fn amd_s_rows_are_those_of_the_table() {
        let rows = [
            ("gfx942", "YYYY--", Some(Fp8Kind::Fnuz)),
            ("gfx950", "YYYYYY", Some(Fp8Kind::Ocp)),
            ("gfx1100", "YYY---", None),
            ("gfx1151", "YYY---", None),
            ("gfx1201", "YYYY--", Some(Fp8Kind::Ocp)),
            ("gfx90a", "YYY---", None),
            ("gfx1030", "Y-----", None),
            ("gfx906", "Y-----", None),
        ];
        for (target, expected, kind) in rows {
            let support = DTypeSupport::of_amd(target);
            assert_eq!((row(support).as_str(), support.fp8_kind), (expected, kind), "{target}");
        }
    }

    #[test]
    fn intel_and_apple_compute_no_8_bit_floats() {
        assert_eq!(row(DTypeSupport::of_intel("xe2")), "YYY---");
        assert_eq!(row(DTypeSupport::of_intel("gen9")), "Y-----");
        assert_eq!(row(DTypeSupport::of_apple("apple-m1")), "Y-----");
        assert_eq!(row(DTypeSupport::of_apple("apple-m4")), "YY----");
    }

    #[test]
    fn an_unknown_architecture_computes_nothing_for_certain() {
        for support in [
            DTypeSupport::of_nvidia((14, 0)),
            DTypeSupport::of_amd("gfx9999x".trim_start_matches("gfx9")),
            DTypeSupport::of_intel("?"),
            DTypeSupport::of_apple("apple-z1"),
        ] {
            assert_eq!((support.known, row(support).as_str()), (false, "------"));
        }
    }

    #[test]
    fn capabilities_are_read_from_compilers_names() {
        assert_eq!(capability("sm_89"), Some((8, 9)));
        assert_eq!(capability("sm_120"), Some((12, 0)));
        assert_eq!(capability("gfx1100"), None);
        assert_eq!(capability("sm_"), None);
    }

    #[test]
    fn processors_compute_what_their_instructions_do() {
        let cpu = |extensions: &[IsaExtension]| Cpu {
            model: None,
            architecture: "x86_64".to_owned(),
            logical: None,
            physical: None,
            usable: crate::Known::assumed(1, "test"),
            extensions: extensions.to_vec(),
        };
        use IsaExtension as E;
        assert_eq!(row(DTypeSupport::of_cpu(&cpu(&[E::Avx2]))), "kk----");
        assert_eq!(row(DTypeSupport::of_cpu(&cpu(&[E::Avx512bf16, E::Avx512vnni]))), "kYh---");
        assert_eq!(row(DTypeSupport::of_cpu(&cpu(&[E::Neon, E::Dotprod]))), "kkh---");
        assert!(!DTypeSupport::of_cpu(&cpu(&[])).known);
    }
}
