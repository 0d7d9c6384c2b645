//! What the process itself takes beside the plan: code, stacks, tokenizer, heap.

use overflowml_hardware::process_memory;
use overflowml_types::{Bytes, Known};

/// What is still to come after planning: thread stacks, buffers of the standard library, code
/// pages not yet touched. Small runs on Linux needed 0.2 MiB.
const STILL_TO_COME: Bytes = Bytes::mib(1);

/// Overhead assumed where the system does not say how much memory a process holds.
const ASSUMED: Bytes = Bytes::mib(32);

/// The overhead of this process now that the model's small files have been read.
pub fn now() -> Known<Bytes> {
    match process_memory() {
        Some(memory) => Known::measured(
            memory.rss.saturating_add(STILL_TO_COME),
            "memory of this process before loading, and room for its threads",
        ),
        None => Known::assumed(ASSUMED, "typical memory of the process"),
    }
}
