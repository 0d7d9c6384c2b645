//! Data table: how ggml stores numbers.

use std::fmt;

use overflowml_types::Bytes;

/// One of ggml's element types: blocks of so many numbers in so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GgmlType(usize);

struct Row {
    id: u32,
    name: &'static str,
    block: u64,
    bytes: u64,
}

const fn row(id: u32, name: &'static str, block: u64, bytes: u64) -> Row {
    Row { id, name, block, bytes }
}

/// All of them; numbers that ggml has retired are kept where files may still hold them.
const TYPES: [Row; 38] = [
    row(0, "f32", 1, 4),
    row(1, "f16", 1, 2),
    row(2, "q4_0", 32, 18),
    row(3, "q4_1", 32, 20),
    row(6, "q5_0", 32, 22),
    row(7, "q5_1", 32, 24),
    row(8, "q8_0", 32, 34),
    row(9, "q8_1", 32, 36),
    row(10, "q2_k", 256, 84),
    row(11, "q3_k", 256, 110),
    row(12, "q4_k", 256, 144),
    row(13, "q5_k", 256, 176),
    row(14, "q6_k", 256, 210),
    row(15, "q8_k", 256, 292),
    row(16, "iq2_xxs", 256, 66),
    row(17, "iq2_xs", 256, 74),
    row(18, "iq3_xxs", 256, 98),
    row(19, "iq1_s", 256, 50),
    row(20, "iq4_nl", 32, 18),
    row(21, "iq3_s", 256, 110),
    row(22, "iq2_s", 256, 82),
    row(23, "iq4_xs", 256, 136),
    row(24, "i8", 1, 1),
    row(25, "i16", 1, 2),
    row(26, "i32", 1, 4),
    row(27, "i64", 1, 8),
    row(28, "f64", 1, 8),
    row(29, "iq1_m", 256, 56),
    row(30, "bf16", 1, 2),
    row(31, "q4_0_4_4", 32, 18),
    row(32, "q4_0_4_8", 32, 18),
    row(33, "q4_0_8_8", 32, 18),
    row(34, "tq1_0", 256, 54),
    row(35, "tq2_0", 256, 66),
    row(36, "iq4_nl_4_4", 32, 18),
    row(39, "mxfp4", 32, 17),
    row(40, "nvfp4", 64, 36),
    row(41, "q1_0", 128, 18),
];

#[allow(missing_docs)] // each is the type's own name
impl GgmlType {
    pub const F32: Self = Self(0);
    pub const F16: Self = Self(1);
    pub const Q4_0: Self = Self(2);
    pub const Q8_0: Self = Self(6);
    pub const Q4_K: Self = Self(10);
    pub const Q6_K: Self = Self(12);
    pub const BF16: Self = Self(28);
    pub const MXFP4: Self = Self(35);
}

impl GgmlType {
    /// The type that files number `id`; `None` for one that this build does not know.
    pub fn from_id(id: u32) -> Option<Self> {
        TYPES.iter().position(|row| row.id == id).map(Self)
    }

    /// Every type.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..TYPES.len()).map(Self)
    }

    /// Its number in files.
    pub fn id(self) -> u32 {
        TYPES[self.0].id
    }

    /// Its short lower-case name: `q4_k`.
    pub fn name(self) -> &'static str {
        TYPES[self.0].name
    }

    /// How many numbers a block holds; a row is a whole number of blocks.
    pub fn block(self) -> u64 {
        TYPES[self.0].block
    }

    /// Bytes of a block.
    pub fn block_size(self) -> Bytes {
        Bytes::new(TYPES[self.0].bytes)
    }

    /// Bytes of `elements` numbers, in whole blocks; `None` on overflow.
    pub fn size(self, elements: u64) -> Option<Bytes> {
        self.block_size().checked_mul(elements.div_ceil(self.block()))
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_types_are_what_their_names_say() {
        for (kind, name) in [
            (GgmlType::F32, "f32"),
            (GgmlType::F16, "f16"),
            (GgmlType::Q4_0, "q4_0"),
            (GgmlType::Q8_0, "q8_0"),
            (GgmlType::Q4_K, "q4_k"),
            (GgmlType::Q6_K, "q6_k"),
            (GgmlType::BF16, "bf16"),
            (GgmlType::MXFP4, "mxfp4"),
        ] {
            assert_eq!(kind.name(), name);
            assert_eq!(GgmlType::from_id(kind.id()), Some(kind));
        }
    }

    #[test]
    fn blocks_take_the_bits_that_are_published() {
        let bits = |name: &str| {
            let kind = GgmlType::all().find(|kind| kind.name() == name).unwrap();
            kind.block_size().as_f64() * 8.0 / f64::from(u32::try_from(kind.block()).unwrap())
        };
        for (name, expected) in [
            ("q4_0", 4.5),
            ("q4_1", 5.0),
            ("q5_0", 5.5),
            ("q5_1", 6.0),
            ("q8_0", 8.5),
            ("q2_k", 2.625),
            ("q3_k", 3.4375),
            ("q4_k", 4.5),
            ("q5_k", 5.5),
            ("q6_k", 6.5625),
            ("iq1_s", 1.5625),
            ("iq2_xxs", 2.0625),
            ("iq3_xxs", 3.0625),
            ("iq4_xs", 4.25),
            ("iq4_nl", 4.5),
            ("mxfp4", 4.25),
            ("nvfp4", 4.5),
        ] {
            assert!((bits(name) - expected).abs() < 1e-12, "{name}: {}", bits(name));
        }
    }
}
