use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes: the only type for a size, an offset or a budget.
///
/// There are no `+` and `-`: the reader must see whether overflow is an error
/// ([`Bytes::checked_add`]) or a floor ([`Bytes::left_after`]).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(u64);

impl Bytes {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// `count` bytes.
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// `count` × 1024 bytes.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// `count` × 1024² bytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// `count` × 1024³ bytes.
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// The length of something in memory.
    pub const fn of_len(len: usize) -> Self {
        Self(len as u64)
    }

    /// The plain count.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The count as an index or length in memory; `None` where it cannot be addressed.
    pub fn to_usize(self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }

    /// The count as a float, for rates and shares.
    #[allow(clippy::cast_precision_loss)]
    pub fn as_f64(self) -> f64 {
        self.0 as f64
    }

    /// Whether this is no bytes at all.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// `None` on overflow: sizes read from a file are untrusted, so sums of them are too.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// `None` on overflow.
    pub fn checked_mul(self, factor: u64) -> Option<Self> {
        self.0.checked_mul(factor).map(Self)
    }

    /// The sum, or the largest number of bytes where it overflows: for totals that are compared
    /// with a budget, which such a sum exceeds anyway.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The product, or the largest number of bytes where it overflows.
    pub const fn saturating_mul(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    /// What remains of this budget after `used`; zero if it is spent.
    pub const fn left_after(self, used: Self) -> Self {
        Self(self.0.saturating_sub(used.0))
    }

    /// The largest multiple of `alignment` that is not above this.
    ///
    /// # Panics
    /// If `alignment` is zero.
    pub const fn align_down(self, alignment: u64) -> Self {
        Self(self.0 - self.0 % alignment)
    }

    /// The smallest multiple of `alignment` that is not below this, saturating.
    ///
    /// # Panics
    /// If `alignment` is zero.
    pub const fn align_up(self, alignment: u64) -> Self {
        match self.0 % alignment {
            0 => self,
            rest => Self(self.0.saturating_add(alignment - rest)),
        }
    }

    /// This share of the whole (0.0 ..= 1.0 is clamped), rounded down.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn share(self, share: f64) -> Self {
        Self((self.as_f64() * share.clamp(0.0, 1.0)) as u64)
    }
}

impl std::iter::Sum for Bytes {
    /// Saturating: see [`Bytes::saturating_add`].
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Self::saturating_add)
    }
}

impl fmt::Display for Bytes {
    /// Binary units with two decimals: `18.25 GiB`, `512.00 KiB`, `17 B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (unit, shift) in UNITS {
            if self.0 >> shift != 0 {
                let text = format!("{:.2} {unit}", self.as_f64() / Self(1 << shift).as_f64());
                return f.pad(&text);
            }
        }
        f.pad(&format!("{} B", self.0))
    }
}

/// Why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseBytesError {
    /// The number part is missing or is not a plain decimal number.
    #[error(
        "`{text}` is not a size: expected a number and a unit, like `2GiB`, `2048MiB` or `1.5G`"
    )]
    NotANumber {
        /// What was given.
        text: String,
    },
    /// The unit is not one of the known ones.
    #[error("`{text}` has the unknown unit `{unit}`: use B, KiB, MiB, GiB, TiB, or KB, MB, GB, TB")]
    UnknownUnit {
        /// What was given.
        text: String,
        /// The part taken for the unit.
        unit: String,
    },
    /// The size is not representable.
    #[error("`{text}` is too large a size")]
    TooLarge {
        /// What was given.
        text: String,
    },
}

impl FromStr for Bytes {
    type Err = ParseBytesError;

    /// Reads `2GiB`, `2GB` (decimal), `2048MiB`, `1.5G` (binary) and `4096` (bytes); the unit's
    /// case does not matter, a space before it is allowed.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.trim();
        let digits =
            trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let not_a_number = || ParseBytesError::NotANumber { text: text.to_owned() };
        if !number.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(not_a_number());
        }
        let number: f64 = number.parse().map_err(|_| not_a_number())?;
        let unit = unit.trim();
        let scale = unit_scale(unit).ok_or_else(|| ParseBytesError::UnknownUnit {
            text: text.to_owned(),
            unit: unit.to_owned(),
        })?;
        let count = number * scale;
        if count >= 18_446_744_073_709_551_615.0 {
            return Err(ParseBytesError::TooLarge { text: text.to_owned() });
        }
        Ok(Self(count.round() as u64))
    }
}

fn unit_scale(unit: &str) -> Option<f64> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1_048_576.0,
        "g" | "gib" => 1_073_741_824.0,
        "t" | "tib" => 1_099_511_627_776.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_print_in_binary_units_with_two_decimals() {
        assert_eq!(Bytes::new(17).to_string(), "17 B");
        assert_eq!(Bytes::kib(512).to_string(), "512.00 KiB");
        assert_eq!(Bytes::mib(18 * 1024 + 256).to_string(), "18.25 GiB");
        assert_eq!(format!("{:>12}", Bytes::gib(2)), "    2.00 GiB");
    }

    #[test]
    fn sizes_are_read_with_binary_and_decimal_units() {
        let read = |text: &str| text.parse::<Bytes>().unwrap();
        assert_eq!(read("2GiB"), Bytes::gib(2));
        assert_eq!(read("2 gib"), Bytes::gib(2));
        assert_eq!(read("2GB"), Bytes::new(2_000_000_000));
        assert_eq!(read("2048MiB"), Bytes::gib(2));
        assert_eq!(read("1.5G"), Bytes::mib(1536));
        assert_eq!(read("4096"), Bytes::kib(4));
    }

    #[test]
    fn what_is_not_a_size_is_refused_by_name() {
        let refused = |text: &str| text.parse::<Bytes>().unwrap_err();
        assert!(matches!(refused("GiB"), ParseBytesError::NotANumber { .. }));
        assert!(matches!(refused("-2GiB"), ParseBytesError::NotANumber { .. }));
        assert!(matches!(refused("1.2.3G"), ParseBytesError::NotANumber { .. }));
        assert!(matches!(refused("3 parsecs"), ParseBytesError::UnknownUnit { .. }));
        assert!(matches!(refused("99999999999TiB"), ParseBytesError::TooLarge { .. }));
    }

    #[test]
    fn alignment_rounds_to_the_multiple_on_that_side() {
        assert_eq!(Bytes::new(4097).align_down(4096), Bytes::new(4096));
        assert_eq!(Bytes::new(4097).align_up(4096), Bytes::new(8192));
        assert_eq!(Bytes::new(8192).align_up(4096), Bytes::new(8192));
    }
}
