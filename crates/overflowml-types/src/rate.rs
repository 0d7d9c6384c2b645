use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Bytes;

/// A duration in seconds, as planned or predicted (measured ones are `std::time::Duration`).
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(f64);

impl Seconds {
    /// `seconds`; negative and not-a-number values become zero.
    pub fn new(seconds: f64) -> Self {
        Self(seconds.max(0.0))
    }

    /// The plain number.
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Seconds {
    /// `1.25 s`, `35.0 ms`, `120 us`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            s if s >= 1.0 => format!("{s:.2} s"),
            s if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
            s => format!("{:.0} us", s * 1e6),
        };
        f.pad(&text)
    }
}

/// A bandwidth.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BytesPerSecond(f64);

impl BytesPerSecond {
    /// One byte per second: the slowest that a plan may assume.
    pub const ONE: Self = Self(1.0);

    /// `rate` bytes per second; `None` unless it is positive and finite.
    pub fn new(rate: f64) -> Option<Self> {
        (rate.is_finite() && rate > 0.0).then_some(Self(rate))
    }

    /// The rate at which `amount` moved in `time`; `None` if either is zero.
    pub fn of(amount: Bytes, time: std::time::Duration) -> Option<Self> {
        Self::new(amount.as_f64() / time.as_secs_f64())
    }

    /// The plain number, in bytes per second.
    pub const fn get(self) -> f64 {
        self.0
    }

    /// How long `amount` takes at this rate.
    pub fn time_for(self, amount: Bytes) -> Seconds {
        Seconds::new(amount.as_f64() / self.0)
    }
}

impl fmt::Display for BytesPerSecond {
    /// Decimal, as disks and memory are sold: `1.05 GB/s`, `87.2 MB/s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if self.0 >= 1e9 {
            format!("{:.2} GB/s", self.0 / 1e9)
        } else {
            format!("{:.1} MB/s", self.0 / 1e6)
        };
        f.pad(&text)
    }
}
