//! What a decoder promises whatever the model: the same bits for any cut of weights and tokens.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failure stops the test

mod common;

use std::sync::atomic::AtomicBool;

use common::{Model, Setup, any_model, tokens};
use overflowml_exec::{ExecError, Kernels, Step};
use overflowml_types::LogitsWanted;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn runs_chunks_and_threads_change_no_bit(
        model in any_model(),
        count in 2_usize..80,
        rows in 1_usize..40,
        chunk in 1_usize..40,
        threads in 1_usize..4,
        seed in any::<u64>(),
    ) {
        let tokens = tokens(count, model.spec.vocab, seed);
        for kernels in Kernels::all_available() {
            let one_by_one = Setup { kernels, ..Setup::new(count, 1) };
            let steps = model.logits(&tokens, usize::MAX, one_by_one);
            let chunks = model.logits(&tokens, rows, Setup { threads, chunk, ..one_by_one });
            for (index, logits) in chunks.iter().enumerate() {
                let last = ((index + 1) * chunk).min(count) - 1;
                prop_assert!(*logits == steps[last], "{} after token {last}", kernels.name());
            }
        }
    }

    #[test]
    fn scores_are_the_log_softmax_of_the_logits(
        model in any_model(),
        count in 2_usize..40,
        rows in 1_usize..1500,
        chunk in 1_usize..20,
        seed in any::<u64>(),
    ) {
        let tokens = tokens(count, model.spec.vocab, seed);
        let steps = model.logits(&tokens, usize::MAX, Setup::new(count, 1));
        let wanted = Setup { wanted: LogitsWanted::All, threads: 2, ..Setup::new(count, chunk) };
        let scores = model.score(&tokens, rows, wanted);
        prop_assert_eq!(scores.len(), count - 1);
        for (index, score) in scores.iter().enumerate() {
            let logits = steps[index].iter().map(|&bits| f64::from(f32::from_bits(bits)));
            let sum: f64 = logits.clone().map(f64::exp).sum();
            let logit = logits.clone().nth(tokens[index + 1] as usize).unwrap();
            prop_assert!((f64::from(*score) - (logit - sum.ln())).abs() < 2e-5);
        }
        let whole = Setup { chunk: count, threads: 1, ..wanted };
        let bits = |scores: Vec<f32>| scores.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        prop_assert_eq!(bits(scores), bits(model.score(&tokens, usize::MAX, whole)));
    }

    #[test]
    fn going_back_and_on_is_as_if_nothing_had_been_there(
        model in any_model(),
        count in 4_usize..60,
        back in 0.0_f64..1.0,
        seed in any::<u64>(),
    ) {
        let (first, second) = (tokens(count, model.spec.vocab, seed), tokens(count, model.spec.vocab, !seed));
        let keep = (back * count as f64) as usize;
        let setup = Setup::new(count, 7);
        let mut source = model.source(usize::MAX);
        let never = AtomicBool::new(false);
        let mut decoder = model.decoder(&source, setup).unwrap();
        first.chunks(7).for_each(|chunk| decoder.feed(&mut source, chunk, &never).unwrap());
        match decoder.truncate(0, keep) {
            Ok(()) => {}
            Err(ExecError::Truncate { oldest, .. }) => {
                // Only a window that has moved on refuses.
                prop_assert!(model.spec.layers.iter().any(|layer| layer.window.is_some()) && oldest > keep);
                return Ok(());
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
        let story: Vec<u32> = first[..keep].iter().chain(&second[keep..]).copied().collect();
        second[keep..].chunks(7).for_each(|chunk| decoder.feed(&mut source, chunk, &never).unwrap());
        if keep < count {
            let expected = model.logits(&story, usize::MAX, setup).pop().unwrap();
            let got: Vec<u32> = decoder.last_logits().iter().map(|logit| logit.to_bits()).collect();
            prop_assert_eq!(got, expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn sequences_that_advance_together_are_each_as_if_alone(
        model in any_model(),
        lengths in proptest::collection::vec(1_usize..50, 1..5),
        chunk in 5_usize..24,
        rows in 1_usize..40,
        seed in any::<u64>(),
    ) {
        let stories: Vec<Vec<u32>> =
            (seed..).zip(&lengths).map(|(seed, &len)| tokens(len, model.spec.vocab, seed)).collect();
        let never = AtomicBool::new(false);
        let setup = Setup { sequences: stories.len(), threads: 2, ..Setup::new(50, chunk) };
        let mut source = model.source(rows);
        let mut decoder = model.decoder(&source, setup).unwrap();
        let mut done = vec![0; stories.len()];
        let mut turn = seed as usize;
        while done.iter().zip(&stories).any(|(&done, story)| done < story.len()) {
            // Each sequence takes another number of tokens each time; some pause.
            turn = turn.wrapping_mul(31).wrapping_add(7);
            let most = chunk / stories.len();
            let steps: Vec<Step<'_>> = stories.iter().enumerate().filter_map(|(sequence, story)| {
                let take = (turn / (sequence + 1) % (most + 1)).min(story.len() - done[sequence]);
                let tokens = &story[done[sequence]..done[sequence] + take];
                (take > 0).then_some(Step { sequence, tokens })
            }).collect();
            if steps.is_empty() { continue; }
            decoder.advance(&mut source, &steps, &never).unwrap();
            for (row, step) in steps.iter().enumerate() {
                done[step.sequence] += step.tokens.len();
                let story = &stories[step.sequence][..done[step.sequence]];
                if story.len() == stories[step.sequence].len() {
                    let alone = model.logits(story, usize::MAX, Setup::new(50, 11)).pop().unwrap();
                    let got: Vec<u32> =
                        decoder.logits_after(row).iter().map(|logit| logit.to_bits()).collect();
                    prop_assert_eq!(got, alone);
                }
            }
        }
        for (sequence, story) in stories.iter().enumerate() {
            prop_assert_eq!(decoder.position(sequence), story.len());
        }
    }
}

#[test]
fn steps_out_of_order_are_refused() {
    let model = small_model();
    let mut source = model.source(5);
    let setup = Setup { sequences: 2, ..Setup::new(6, 4) };
    let mut decoder = model.decoder(&source, setup).unwrap();
    let never = AtomicBool::new(false);
    let step = |sequence| Step { sequence, tokens: &[0] };
    for steps in [vec![step(1), step(0)], vec![step(0), step(0)], vec![step(2)]] {
        let refused = decoder.advance(&mut source, &steps, &never);
        assert_eq!(refused.map_err(|error| error.code()), Err("exec.steps"));
    }
    let nothing = decoder.advance(&mut source, &[], &never);
    assert_eq!(nothing.map_err(|error| error.code()), Err("exec.too-few-tokens"));
    decoder.advance(&mut source, &[step(0), step(1)], &never).unwrap();
    assert_eq!((decoder.position(0), decoder.position(1)), (1, 1));
}

fn small_model() -> Model {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let usual = any_model().prop_filter("no windows", |model| {
        model.spec.vocab > 20 && model.spec.layers.iter().all(|layer| layer.window.is_none())
    });
    usual.new_tree(&mut runner).unwrap().current()
}

#[test]
fn a_cancelled_pass_leaves_the_cache_as_it_was() {
    let model = small_model();
    let setup = Setup::new(12, 12);
    let mut source = model.source(3);
    let mut decoder = model.decoder(&source, setup).unwrap();
    let story = tokens(9, model.spec.vocab, 1);
    decoder.feed(&mut source, &story[..5], &AtomicBool::new(false)).unwrap();
    let cancelled = decoder.feed(&mut source, &[1, 2, 3], &AtomicBool::new(true));
    assert!(matches!(cancelled, Err(ExecError::Cancelled)));
    assert_eq!(decoder.position(0), 5);
    decoder.feed(&mut source, &story[5..], &AtomicBool::new(false)).unwrap();
    let got: Vec<u32> = decoder.last_logits().iter().map(|logit| logit.to_bits()).collect();
    assert_eq!(Some(got), model.logits(&story, 3, setup).pop());
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let model = small_model();
    let mut source = model.source(5);
    let mut decoder = model.decoder(&source, Setup::new(6, 4)).unwrap();
    let never = AtomicBool::new(false);
    let mut feed = |tokens: &[u32]| decoder.feed(&mut source, tokens, &never).map_err(|e| e.code());
    assert_eq!(feed(&[]), Err("exec.too-few-tokens"));
    assert_eq!(feed(&[0; 5]), Err("exec.chunk-too-long"));
    assert_eq!(feed(&[model.spec.vocab as u32]), Err("exec.token-out-of-range"));
    assert_eq!(feed(&[0; 4]), Ok(()));
    assert_eq!(feed(&[0; 3]), Err("exec.context-full"));
    assert_eq!(feed(&[0; 2]), Ok(()));
    let mut scores = Vec::new();
    let score = decoder.score(&mut source, &[1, 2], &never, &mut scores);
    assert_eq!(score.map_err(|error| error.code()), Err("exec.not-for-scoring"));
}

#[test]
fn weights_that_overflow_are_reported_and_not_sampled_from() {
    let model = small_model();
    let mut spec = model.spec.clone();
    spec.scales.embedding = f32::INFINITY;
    spec.logit_softcap = None;
    let model = Model::new(spec, model.dtype, 3);
    let mut source = model.source(5);
    let mut decoder = model.decoder(&source, Setup::new(6, 4)).unwrap();
    let fed = decoder.feed(&mut source, &[1, 2, 3], &AtomicBool::new(false));
    assert!(matches!(fed, Err(ExecError::NotANumber { position: 2 })), "{fed:?}");
}
