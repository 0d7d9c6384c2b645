use std::time::Duration;

use overflowml_types::{Bytes, BytesPerSecond};

/// What a store has read, and how long it was waited for. All counts are since it was opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Read once, at the start: what stays in memory.
    pub loaded: Bytes,
    /// How long that took.
    pub load_time: Duration,
    /// Read through the slots.
    pub streamed: Bytes,
    /// Reads through the slots.
    pub reads: u64,
    /// Time during which at least one of those reads was under way.
    pub reading: Duration,
    /// The most of them that were under way at once.
    pub most_in_flight: usize,
    /// Rows looked up on disk.
    pub looked_up: Bytes,
    /// Passes that were completed.
    pub passes: u64,
    /// Time that computing waited for a read.
    pub stall: Duration,
    /// Of mixtures of experts; all zero for others.
    pub experts: ExpertCounters,
    /// Whether the memory of what stays is locked against swapping.
    pub locked: bool,
    /// Why the page cache is not bypassed; `None` if it is.
    pub buffered_because: Option<String>,
}

/// What became of the experts that passes needed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpertCounters {
    /// Bytes of experts that were needed, each once per pass.
    pub used: Bytes,
    /// Bytes of them that were not in memory.
    pub missed: Bytes,
    /// Bytes that were read for it: the same with the alignment of direct reads.
    pub read: Bytes,
    /// Reads.
    pub reads: u64,
    /// Time during which at least one of them was under way.
    pub reading: Duration,
    /// Time that computing waited for one.
    pub stall: Duration,
}

impl ExpertCounters {
    /// The share of the needed bytes that was in memory; `None` if none were needed.
    pub fn hit_rate(&self) -> Option<f64> {
        let missed = self.missed.as_f64() / self.used.as_f64();
        (!self.used.is_zero()).then_some(1.0 - missed)
    }

    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            used: self.used.left_after(earlier.used),
            missed: self.missed.left_after(earlier.missed),
            read: self.read.left_after(earlier.read),
            reads: self.reads.saturating_sub(earlier.reads),
            reading: self.reading.saturating_sub(earlier.reading),
            stall: self.stall.saturating_sub(earlier.stall),
        }
    }
}

impl Counters {
    /// Loads shorter than this say little about a disk.
    const TELLING: Bytes = Bytes::mib(64);

    /// How fast what stays was read; `None` if it was too little to tell.
    pub fn load_rate(&self) -> Option<BytesPerSecond> {
        let telling = self.loaded >= Self::TELLING;
        telling.then(|| BytesPerSecond::of(self.loaded, self.load_time)).flatten()
    }

    /// How fast blocks or experts came through the slots; `None` if it was too little to tell.
    pub fn stream_rate(&self) -> Option<BytesPerSecond> {
        let (experts, telling) = (&self.experts, |bytes| bytes >= Self::TELLING);
        if telling(self.streamed) {
            return BytesPerSecond::of(self.streamed, self.reading);
        }
        telling(experts.read).then(|| BytesPerSecond::of(experts.read, experts.reading)).flatten()
    }

    /// Everything that was read.
    pub fn total(&self) -> Bytes {
        let through_slots = self.streamed.saturating_add(self.experts.read);
        self.loaded.saturating_add(through_slots).saturating_add(self.looked_up)
    }
}
