//! Experts on demand: the right bytes whatever is kept, no read that is not needed, and faults told.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use overflowml_plan::ExpertCache;
use overflowml_types::WeightRole;

use super::*;
use crate::Wanted;

/// The weights of every expert, by layer and number.
fn experts(world: &World) -> BTreeMap<(u32, u32), Vec<usize>> {
    let mut experts: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (index, weight) in world.weights.iter().enumerate() {
        if let WeightRole::Expert(layer, expert, _) = weight.role {
            experts.entry((layer, expert)).or_default().push(index);
        }
    }
    experts
}

/// A plan that reads experts, of which it keeps `kept` pieces.
fn demanding(world: &World, kept: usize, spare: usize) -> Plan {
    let mut plan = (0..400).find_map(|step| world.plan(step * 4096)).unwrap();
    let cache = plan.experts.take().unwrap();
    plan.experts = Some(ExpertCache { kept: kept.min(cache.pieces.len()), spare, ..cache });
    plan
}

/// One layer's visit: returns the order in which the experts were left.
fn visit(
    world: &World,
    store: &mut Store,
    layer: u32,
    chosen: &[u32],
    in_order: bool,
) -> Result<Vec<u32>, StreamError> {
    let all = experts(world);
    let wanted = chosen.iter().map(|&expert| Wanted {
        expert,
        weight: all[&(layer, expert)][0],
        tokens: 1 + expert % 3,
    });
    let mut wanted: Vec<Wanted> = wanted.collect();
    store.want_experts(&mut wanted, in_order)?;
    for it in &wanted {
        for &weight in &all[&(layer, it.expert)] {
            world.matrix(store, weight)?;
        }
    }
    Ok(wanted.into_iter().map(|it| it.expert).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_expert_comes_with_its_own_bytes_and_only_misses_are_read(
        kept in 0_usize..200,
        spare in 1_usize..20,
        visits in prop::collection::vec((0_u32..4, prop::collection::btree_set(0_u32..6, 1..6), any::<bool>()), 1..40),
    ) {
        without_hanging(move || {
            let world = world("Qwen3MoeForCausalLM", false, 2);
            let plan = demanding(&world, kept, spare);
            let mut store = world.open(&plan).unwrap();
            for (layer, chosen, in_order) in visits {
                let chosen: Vec<u32> = chosen.into_iter().collect();
                let mut order = visit(&world, &mut store, layer, &chosen, in_order).unwrap();
                if in_order {
                    assert_eq!(order, chosen);
                }
                order.sort_unstable();
                assert_eq!(order, chosen);
            }
            let counters = store.counters().experts;
            assert!(counters.missed <= counters.used);
            // Whole sectors around every piece, and nothing else.
            let around = Bytes::new(2 * 4096 * counters.reads);
            assert!(counters.read <= counters.missed.saturating_add(around));
            assert!(counters.read >= counters.missed);
        });
    }
}

#[test]
fn what_is_kept_is_not_read_again_and_comes_first() {
    let world = world("MixtralForCausalLM", false, 1);
    let plan = demanding(&world, usize::MAX, 4);
    let mut store = world.open(&plan).unwrap();
    visit(&world, &mut store, 1, &[1, 4], false).unwrap();
    let read = store.counters().experts.read;
    assert_eq!(visit(&world, &mut store, 1, &[0, 1, 2, 4], false).unwrap(), [1, 4, 0, 2]);
    let counters = store.counters().experts;
    assert_eq!(counters.missed.get() * 3, counters.used.get() * 2, "4 of 6 were missed");
    assert!(counters.read <= read.saturating_add(read), "as much again");
    visit(&world, &mut store, 1, &[0, 1, 2, 4], true).unwrap();
    assert_eq!(store.counters().experts.read, counters.read, "all are there");
}

#[test]
fn what_is_used_often_outlives_what_is_used_once() {
    let world = world("MixtralForCausalLM", false, 1);
    let whole = demanding(&world, usize::MAX, 4);
    let pieces = whole.experts.as_ref().unwrap().pieces.len();
    // Half of every layer's six experts.
    let mut store = world.open(&demanding(&world, pieces / 2, 4)).unwrap();
    for _ in 0..8 {
        visit(&world, &mut store, 2, &[0, 3], false).unwrap();
    }
    for once in [1, 2, 4, 5] {
        visit(&world, &mut store, 2, &[once], false).unwrap();
    }
    let before = store.counters().experts.missed;
    visit(&world, &mut store, 2, &[0, 3], false).unwrap();
    assert_eq!(store.counters().experts.missed, before);
}

#[test]
fn a_read_error_is_told_and_the_store_goes_on_after_it() {
    without_hanging(|| {
        let world = world("OlmoeForCausalLM", false, 2);
        let plan = demanding(&world, 4, 3);
        let healthy = Arc::new(AtomicBool::new(true));
        let switch = Arc::clone(&healthy);
        let source =
            world.faulty(move |system: &SystemFiles, _, file, offset, buf: &mut [u8]| match switch
                .load(Ordering::SeqCst)
            {
                true => system.read_at(file, offset, buf),
                false => Err(io::Error::other("broken")),
            });
        let mut store = world.open_from(&plan, source).unwrap();
        visit(&world, &mut store, 0, &[0, 1, 2], true).unwrap();
        healthy.store(false, Ordering::SeqCst);
        let error = visit(&world, &mut store, 0, &[2, 3, 4, 5], true).unwrap_err();
        assert_eq!(error.code(), "stream.read", "{error}");
        let again = visit(&world, &mut store, 0, &[1], true).unwrap_err();
        assert_eq!(again.code(), "stream.order", "the pass must be abandoned first");
        healthy.store(true, Ordering::SeqCst);
        store.rewind().unwrap();
        for layer in 0..4 {
            visit(&world, &mut store, layer, &[0, 2, 3, 4, 5], layer % 2 == 0).unwrap();
        }
    });
}

#[test]
fn an_abandoned_visit_loses_no_slot() {
    without_hanging(|| {
        let world = world("Qwen3MoeForCausalLM", false, 1);
        let mut store = world.open(&demanding(&world, 5, 2)).unwrap();
        let all = experts(&world);
        for round in 0..30 {
            let layer = round % 4;
            let mut wanted: Vec<Wanted> = (0..6)
                .map(|expert| Wanted { expert, weight: all[&(layer, expert)][0], tokens: 1 })
                .collect();
            store.want_experts(&mut wanted, true).unwrap();
            world.matrix(&mut store, all[&(layer, 0)][0]).unwrap();
            store.rewind().unwrap();
        }
        visit(&world, &mut store, 3, &[0, 1, 2, 3, 4, 5], true).unwrap();
    });
}

#[test]
fn taking_out_of_turn_is_refused() {
    let world = world("MixtralForCausalLM", false, 1);
    let mut store = world.open(&demanding(&world, 5, 4)).unwrap();
    let all = experts(&world);
    let wanted = |expert: u32| Wanted { expert, weight: all[&(0, expert)][0], tokens: 1 };
    assert!(world.matrix(&mut store, all[&(0, 0)][0]).is_err(), "it was not wanted");
    assert!(
        store.want_experts(&mut [Wanted { weight: 0, ..wanted(0) }], true).is_err(),
        "no expert"
    );
    store.want_experts(&mut [wanted(0), wanted(1)], true).unwrap();
    assert!(store.want_experts(&mut [wanted(2)], true).is_err(), "others are due");
    assert!(world.matrix(&mut store, all[&(0, 1)][0]).is_err(), "another one is due");
}
