//! What is read when, told by a disk that counts and by gates that tests open: no clocks.

use overflowml_types::{FileId, ModelFile};

use super::*;
use crate::measure_disk;

/// What a disk was asked for, shared with the test.
#[derive(Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Default)]
struct LogState {
    /// File, offset and bytes got, per read.
    reads: Vec<(usize, u64, usize)>,
    /// Reads that wait at the gate.
    waiting: usize,
    closed: bool,
    /// Reads that may still pass the closed gate.
    tickets: usize,
}

impl Log {
    fn reads(&self) -> Vec<(usize, u64, usize)> {
        self.state.lock().unwrap().reads.clone()
    }

    fn bytes(&self) -> u64 {
        self.reads().iter().map(|&(_, _, len)| len as u64).sum()
    }

    /// Waits until `enough`; for ever if it never is, which the test's watchdog ends.
    fn wait_until(&self, mut enough: impl FnMut(&LogState) -> bool) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| !enough(state)).unwrap());
    }

    /// From now on only `tickets` reads come through.
    fn close(&self, tickets: usize) {
        let mut state = self.state.lock().unwrap();
        (state.closed, state.tickets) = (true, tickets);
    }

    fn open(&self) {
        self.state.lock().unwrap().closed = false;
        self.changed.notify_all();
    }

    fn pass_gate(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        let shut = |state: &mut LogState| state.closed && state.tickets == 0;
        state = self.changed.wait_while(state, shut).unwrap();
        state.waiting -= 1;
        state.tickets = state.tickets.saturating_sub(1);
    }
}

fn logged(world: &World) -> (impl Source + use<>, Arc<Log>) {
    let log = Arc::new(Log::default());
    let shared = Arc::clone(&log);
    let source = world.faulty(move |system: &SystemFiles, _, file, offset, buf: &mut [u8]| {
        shared.pass_gate();
        let read = system.read_at(file, offset, buf);
        let entry = (file, offset, read.as_ref().map_or(0, |&read| read));
        shared.state.lock().unwrap().reads.push(entry);
        shared.changed.notify_all();
        read
    });
    (source, log)
}

fn count(plan: &Plan) -> usize {
    plan.blocks.iter().filter(|block| block.home == Home::Disk).count()
}

fn slots(plan: &Plan) -> usize {
    plan.ring.unwrap().slots
}

/// A store whose resident part is loaded; what was read for that is not in the log.
fn opened(world: &World, plan: &Plan) -> (Store, Arc<Log>, usize) {
    let (source, log) = logged(world);
    let store = world.open_from(plan, source).unwrap();
    let kept = world.weights.iter().filter(|weight| weight.access == Access::Kept).count();
    let loads = plan.runs().len() + kept;
    (store, log, loads)
}

#[test]
fn after_the_last_expected_pass_nothing_is_read() {
    without_hanging(|| {
        for passes in 1..4 {
            let world = world("LlamaForCausalLM", false, 1);
            let plan = world.streaming();
            let (mut store, log, loads) = opened(&world, &plan);
            store.expect_passes(Some(passes as u64));
            for _ in 0..passes {
                world.pass(&mut store).unwrap();
            }
            // Dropping waits for the readers: whatever they began is in the log then.
            drop(store);
            assert_eq!(log.reads().len(), loads + passes * count(&plan));
        }
    });
}

#[test]
fn the_next_pass_is_read_ahead_into_all_slots_and_no_further() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 1);
        let plan = world.streaming();
        let (mut store, log, loads) = opened(&world, &plan);
        store.expect_passes(None);
        world.pass(&mut store).unwrap();
        let full = loads + count(&plan) + slots(&plan);
        log.wait_until(|state| state.reads.len() == full);
        drop(store);
        assert_eq!(log.reads().len(), full);
    });
}

#[test]
fn before_the_first_pass_is_expected_no_more_than_the_slots_is_read() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 1);
        let plan = world.streaming();
        let (store, log, loads) = opened(&world, &plan);
        drop(store);
        assert!(log.reads().len() <= loads + slots(&plan));
    });
}

#[test]
fn passes_that_were_not_expected_are_served_and_no_block_is_read_twice_for_one() {
    without_hanging(|| {
        let world = world("Gemma2ForCausalLM", true, 2);
        let plan = world.streaming();
        let (mut store, log, loads) = opened(&world, &plan);
        store.expect_passes(Some(0));
        for _ in 0..3 {
            world.pass(&mut store).unwrap();
        }
        drop(store);
        assert_eq!(log.reads().len(), loads + 3 * count(&plan));
    });
}

#[test]
fn several_reads_are_under_way_while_the_disk_is_slow() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 1);
        let plan = world.streaming();
        let (mut store, log, _) = opened(&world, &plan);
        store.expect_passes(Some(1));
        world.pass(&mut store).unwrap();
        log.close(0);
        store.expect_passes(Some(1));
        let expected = StoreOptions::default().readers.min(slots(&plan));
        assert!(expected > 1);
        // All readers wait for the disk at once, though nobody has asked for a block yet.
        log.wait_until(|state| state.waiting == expected);
        log.open();
        world.pass(&mut store).unwrap();
        assert_eq!(store.counters().most_in_flight, expected);
        assert!(store.counters().reading > Duration::ZERO);
    });
}

#[test]
fn a_pass_that_is_left_while_reads_are_under_way_does_not_leak_into_the_next() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 1);
        let plan = world.streaming();
        let (mut store, log, _) = opened(&world, &plan);
        for finished in 0..slots(&plan) {
            store.expect_passes(Some(1));
            world.pass(&mut store).unwrap();
            let before = log.reads().len();
            log.close(finished);
            store.expect_passes(None);
            // Some of the second pass is there already; the rest is stuck.
            let stuck = StoreOptions::default().readers.min(slots(&plan) - finished);
            log.wait_until(|state| {
                state.reads.len() == before + finished && state.waiting == stuck
            });
            store.rewind().unwrap();
            log.open();
            world.pass(&mut store).unwrap();
        }
    });
}

#[test]
fn a_store_can_be_dropped_while_reads_are_under_way() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 1);
        let plan = world.streaming();
        let (mut store, log, _) = opened(&world, &plan);
        store.expect_passes(Some(1));
        world.pass(&mut store).unwrap();
        log.close(0);
        store.expect_passes(None);
        log.wait_until(|state| state.waiting > 0);
        let dropping = std::thread::spawn(move || drop(store));
        log.open();
        dropping.join().unwrap();
        let reads = log.reads().len();
        assert_eq!(log.state.lock().unwrap().waiting, 0);
        assert_eq!(log.reads().len(), reads);
    });
}

#[test]
fn a_model_that_fits_is_asked_of_the_disk_once_each_byte() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 2);
        let plan = world.plan(64 << 20).unwrap();
        let (mut store, log, loads) = opened(&world, &plan);
        let reads = log.reads();
        assert_eq!(reads.len(), loads);
        let mut checked = 0;
        for weight in world.weights.iter().filter(|weight| weight.access != Access::Kept) {
            let span = weight.tensor.span;
            // A sector may hold the end of one matrix and the start of another: not its middle.
            if span.len < Bytes::new(3 * 4096) {
                continue;
            }
            checked += 1;
            let middle = span.offset.get() + span.len.get() / 2;
            let covers = |&&(file, offset, len): &&(usize, u64, usize)| {
                file == span.file.0 as usize && (offset..offset + len as u64).contains(&middle)
            };
            assert_eq!(reads.iter().filter(covers).count(), 1, "{}", weight.tensor.name);
        }
        assert!(checked > 0);
        let before = log.bytes();
        for _ in 0..3 {
            world.pass(&mut store).unwrap();
            let mut row = vec![0; 128];
            store.lookup(0, 96, &mut row).unwrap();
        }
        drop(store);
        assert_eq!(log.bytes(), before);
    });
}

#[test]
fn a_matrix_longer_than_one_read_is_loaded_whole() {
    without_hanging(|| {
        let temp = std::env::temp_dir();
        // 9.8 MB: three reads, the last of which ends inside a sector.
        let world = world_with(&temp, "LlamaForCausalLM", true, 1, 76_543);
        let plan = world.plan(64 << 20).unwrap();
        let (mut store, log, loads) = opened(&world, &plan);
        assert_eq!(log.reads().len(), loads + 2);
        world.pass(&mut store).unwrap();
    });
}

#[test]
fn loading_tells_its_progress_to_the_end() {
    let world = world("LlamaForCausalLM", false, 2);
    let plan = world.plan(64 << 20).unwrap();
    let mut told = Vec::new();
    let files = &world.model.manifest.files;
    let options = StoreOptions::default();
    let store = Store::open(files, &world.weights, &plan, &options, &mut |done, total| {
        told.push((done, total));
    });
    let loaded = store.unwrap().counters().loaded;
    assert!(told.is_sorted() && told.iter().all(|&(_, total)| total == loaded));
    assert_eq!(told.last(), Some(&(loaded, loaded)));
}

#[test]
fn every_row_is_looked_up_right_wherever_it_is() {
    const VOCAB: u64 = 700;
    for (tied, shards) in [(true, 1), (false, 1), (true, 3), (false, 3)] {
        let temp = std::env::temp_dir();
        let world = world_with(&temp, "LlamaForCausalLM", tied, shards, VOCAB as usize);
        let head = world.weights.iter().rposition(|weight| weight.access == Access::Rows).unwrap();
        let homes = |plan: &Plan| {
            let of_head = plan.blocks.iter().filter(|block| block.weight == head);
            of_head.map(|block| block.home).collect::<Vec<_>>()
        };
        let everywhere =
            |plan: &Plan| homes(plan).windows(2).any(|pair| pair == [Home::Memory, Home::Disk]);
        // A part of the head is in memory, and a part behind it on disk.
        let mut plans = (0..400).filter_map(|step| world.plan(step * 2048));
        let plan = plans.find(everywhere).unwrap();
        let mut store = world.open(&plan).unwrap();
        let whole = world.bytes(world.weights[0].tensor.span);
        for (number, expected) in whole.chunks(128).enumerate() {
            let mut row = vec![0; 128];
            store.lookup(0, number as u64, &mut row).unwrap();
            assert_eq!(row, expected);
        }
        let looked_up = store.counters().looked_up.get();
        let resident: u64 = plan
            .blocks
            .iter()
            .filter(|block| block.weight == head && block.home == Home::Memory)
            .map(|block| block.rows)
            .sum();
        let on_disk = if tied { VOCAB - resident } else { VOCAB };
        assert!((on_disk * 4096..=on_disk * 8192).contains(&looked_up), "{tied}: {looked_up}");
        let wrong_length = store.lookup(0, 0, &mut [0; 127]).unwrap_err();
        assert_eq!(wrong_length.code(), "stream.order");
    }
}

#[test]
fn a_disk_is_measured_by_reading_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let measure = |most| measure_disk(&path, most, PATIENCE);
    assert_eq!(measure(Bytes::mib(1)).unwrap_err().code(), "stream.open");
    std::fs::write(&path, b"").unwrap();
    assert_eq!(measure(Bytes::mib(1)).unwrap_err().code(), "stream.open");
    std::fs::write(&path, vec![1; (9 << 20) + 17]).unwrap();
    for most in [Bytes::kib(5), Bytes::mib(6), Bytes::gib(1)] {
        let measured = measure(most).unwrap();
        assert!(measured.value.get() > 0.0);
        let read = most.min(Bytes::new((9 << 20) + 17)).to_string();
        assert!(format!("{measured:?}").contains(&read), "{measured:?} of {read}");
    }
}

#[test]
fn a_reader_count_of_zero_or_of_many_works() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 1);
        let plan = world.streaming();
        for readers in [0, 1, 64] {
            let options = StoreOptions { readers, ..StoreOptions::default() };
            let files = &world.model.manifest.files;
            let mut store =
                Store::open(files, &world.weights, &plan, &options, &mut |_, _| {}).unwrap();
            store.expect_passes(Some(2));
            world.pass(&mut store).unwrap();
            world.pass(&mut store).unwrap();
            assert!(store.counters().most_in_flight <= readers.clamp(1, slots(&plan)));
        }
    });
}

#[test]
fn a_plan_for_other_files_is_refused() {
    let world = world("LlamaForCausalLM", false, 1);
    let plan = world.streaming();
    let files = &world.model.manifest.files;
    let options = StoreOptions::default();
    let fewer = &world.weights[..3];
    let refused = Store::open(files, fewer, &plan, &options, &mut |_, _| {}).err().unwrap();
    assert_eq!(refused.code(), "stream.order");
    let gone = [ModelFile { path: "no-such-model".into(), size: Bytes::new(1) }];
    let refused = Store::open(&gone, &world.weights, &plan, &options, &mut |_, _| {});
    assert_eq!(refused.err().unwrap().code(), "stream.open");
    assert_eq!(world.weights[0].tensor.span.file, FileId(0));
}
