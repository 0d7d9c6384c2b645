//! A token allocates nothing: memory is what was planned, from the first to the last.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failure stops the test

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{Setup, any_model, tokens};
use overflowml_exec::{Sampler, Sampling};
use overflowml_types::LogitsWanted;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises; it came from `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn feeding_scoring_and_sampling_allocate_nothing() {
    let mut runner = TestRunner::deterministic();
    let never = AtomicBool::new(false);
    for _ in 0..12 {
        let model = any_model().new_tree(&mut runner).unwrap().current();
        let vocab = model.spec.vocab;
        let setup = Setup { threads: 2, wanted: LogitsWanted::All, ..Setup::new(100, 16) };
        let mut source = model.source(5);
        let mut decoder = model.decoder(&source, setup).unwrap();
        let sampling = Sampling {
            temperature: 1.0,
            top_k: 20,
            top_p: 0.9,
            repetition_penalty: 1.1,
            ..Sampling::greedy()
        };
        let mut sampler = Sampler::new(sampling, vocab, &[]).unwrap();
        let story = tokens(40, vocab, 1);
        let mut scores = Vec::with_capacity(40);
        decoder.feed(&mut source, &story[..16], &never).unwrap();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..20 {
            let token = sampler.choose(decoder.last_logits()).unwrap();
            decoder.feed(&mut source, &[token], &never).unwrap();
        }
        decoder.feed(&mut source, &story[..13], &never).unwrap();
        decoder.score(&mut source, &story[..14], &never, &mut scores).unwrap();
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0);
    }
}
