//! A store against its files' bytes, on sound disks and on faulty ones.

mod experts;
mod faults;
mod reads;
mod schedule;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use overflowml_formats::{Model, fixture, open_model};
use overflowml_plan::{Home, Plan, Rates, Request, plan};
use overflowml_types::{
    Access, Bytes, BytesPerSecond, DType, FileSpan, Known, LogitsWanted, PassWeight,
};
use proptest::prelude::*;

use crate::files::{Fingerprint, Source, SystemFiles};
use crate::{Counters, DirectIo, Store, StoreOptions, StreamError};

/// Longer than any test takes on the slowest machine: a hang is a failure, not an endless run.
const PATIENCE: Duration = Duration::from_secs(60);

/// A small model on disk, and what its files hold.
struct World {
    _folder: tempfile::TempDir,
    model: Model,
    weights: Vec<PassWeight>,
    contents: Vec<Vec<u8>>,
}

fn world(architecture: &str, tied: bool, shards: usize) -> World {
    world_in(&std::env::temp_dir(), architecture, tied, shards)
}

fn world_in(parent: &Path, architecture: &str, tied: bool, shards: usize) -> World {
    world_with(parent, architecture, tied, shards, 97)
}

fn world_with(parent: &Path, architecture: &str, tied: bool, shards: usize, vocab: usize) -> World {
    let folder = tempfile::tempdir_in(parent).unwrap();
    let mut config = fixture::config(architecture);
    config["tie_word_embeddings"] = tied.into();
    config["vocab_size"] = vocab.into();
    fixture::write_model(folder.path(), &config, DType::BF16, 5, shards).unwrap();
    let model = open_model(folder.path()).unwrap();
    let weights = model.bind().unwrap();
    let files = &model.manifest.files;
    let contents = files.iter().map(|file| std::fs::read(&file.path).unwrap()).collect();
    World { _folder: folder, model, weights, contents }
}

impl World {
    /// A plan that has `room` bytes for blocks and slots, beside what everything else takes.
    fn plan(&self, room: u64) -> Option<Plan> {
        let rate = |plain| Known::assumed(BytesPerSecond::new(plain).unwrap(), "a test");
        let request = Request {
            budget: Bytes::mib(5).saturating_add(Bytes::new(room)),
            prompt: 4,
            sequences: 1,
            generate: 4,
            logits: LogitsWanted::Last,
            kv_dtype: DType::F16,
            threads: 1,
            overhead: Known::assumed(Bytes::mib(1), "a test"),
            rates: Rates {
                disk: rate(1e9),
                memory: rate(1e10),
                flops: Known::assumed(1e11, "a test"),
            },
        };
        plan(self.model.decoder().unwrap(), &self.weights, &request).ok()
    }

    /// A plan under which most of the model streams.
    fn streaming(&self) -> Plan {
        let plan = (0..200).find_map(|step| self.plan(step * 8192)).unwrap();
        assert!(plan.ring.is_some() && plan.blocks.iter().any(|block| block.home == Home::Disk));
        plan
    }

    fn bytes(&self, span: FileSpan) -> &[u8] {
        let start = span.offset.to_usize().unwrap();
        &self.contents[span.file.0 as usize][start..start + span.len.to_usize().unwrap()]
    }

    fn open(&self, plan: &Plan) -> Result<Store, StreamError> {
        let options = StoreOptions::default();
        Store::open(&self.model.manifest.files, &self.weights, plan, &options, &mut |_, _| {})
    }

    fn open_from(&self, plan: &Plan, source: impl Source + 'static) -> Result<Store, StreamError> {
        let (files, options) = (&self.model.manifest.files, StoreOptions::default());
        Store::from_source(files, Box::new(source), &self.weights, plan, &options, &mut |_, _| {})
    }

    fn system(&self) -> SystemFiles {
        SystemFiles::open(&self.model.manifest.files, DirectIo::Never).unwrap()
    }

    /// Every part of a matrix is what the file holds, and every row comes once, in order.
    fn matrix(&self, store: &mut Store, index: usize) -> Result<(), StreamError> {
        let weight = &self.weights[index];
        let whole = self.bytes(weight.tensor.span);
        let row = whole.len() / weight.rows() as usize;
        let mut next = 0;
        let mut parts = store.parts(index);
        while let Some(part) = parts.next() {
            let part = part?;
            assert_eq!(part.first_row() as usize, next);
            next += part.rows() as usize;
            let start = part.first_row() as usize * row;
            assert!(part.bytes() == &whole[start..next * row], "stale or wrong bytes");
        }
        assert_eq!(next as u64, weight.rows());
        Ok(())
    }

    /// One pass: every part is what the file holds, and every row comes once, in order.
    fn pass(&self, store: &mut Store) -> Result<(), StreamError> {
        for (index, weight) in self.weights.iter().enumerate() {
            let whole = self.bytes(weight.tensor.span);
            match weight.access {
                Access::Kept => assert_eq!(store.kept(index), whole),
                Access::Lookup | Access::Expert => {}
                Access::Rows => {
                    self.matrix(store, index)?;
                }
            }
        }
        Ok(())
    }
}

/// Runs `test` on a thread of its own, and gives up on it after a while.
pub(crate) fn without_hanging<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    let running = std::thread::spawn(move || {
        let _ = sender.send(test());
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(result) => result,
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(running.join().unwrap_err())
        }
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
    }
}

/// A disk whose reads go through `fault`: given the read's number, file, offset and buffer.
struct Faulty<F> {
    system: SystemFiles,
    reads: AtomicUsize,
    fault: F,
    alignment: usize,
}

impl<F> Source for Faulty<F>
where
    F: Fn(&SystemFiles, usize, usize, u64, &mut [u8]) -> io::Result<usize> + Send + Sync,
{
    fn read_at(&self, file: usize, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let number = self.reads.fetch_add(1, Ordering::Relaxed);
        (self.fault)(&self.system, number, file, offset, buf)
    }

    fn alignment(&self) -> usize {
        self.alignment
    }

    fn fingerprint(&self, file: usize) -> io::Result<Fingerprint> {
        self.system.fingerprint(file)
    }
}

impl World {
    fn faulty<F>(&self, fault: F) -> Faulty<F> {
        Faulty { system: self.system(), reads: AtomicUsize::new(0), fault, alignment: 1 }
    }
}

/// Streamed bytes of a pass, with the sectors around them.
fn streamed_per_pass(plan: &Plan) -> Bytes {
    let streamed = plan.blocks.iter().filter(|block| block.home == Home::Disk);
    streamed.map(|block| block.stored().len).sum()
}

#[test]
fn passes_read_what_does_not_fit_and_not_a_byte_more() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 1);
        let plan = world.streaming();
        let mut store = world.open(&plan).unwrap();
        store.expect_passes(Some(3));
        for _ in 0..3 {
            world.pass(&mut store).unwrap();
        }
        let Counters { streamed, passes, reads, loaded, .. } = store.counters();
        let count = plan.blocks.iter().filter(|block| block.home == Home::Disk).count() as u64;
        assert_eq!((passes, reads), (3, 3 * count));
        assert_eq!(streamed, streamed_per_pass(&plan).saturating_mul(3));
        assert_eq!(loaded, plan.memory.resident);
    });
}

#[test]
fn the_next_pass_is_read_while_this_one_ends_and_only_if_it_is_expected() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 1);
        let plan = world.streaming();
        let one = streamed_per_pass(&plan);
        for (expected, more) in [(Some(1), false), (None, true)] {
            let mut store = world.open(&plan).unwrap();
            store.expect_passes(expected);
            world.pass(&mut store).unwrap();
            // The readers have nothing to wait for: slots are free.
            let started = std::time::Instant::now();
            while more && store.counters().streamed <= one && started.elapsed() < PATIENCE {
                std::thread::yield_now();
            }
            assert_eq!(store.counters().streamed > one, more);
            world.pass(&mut store).unwrap();
        }
    });
}

#[test]
fn a_model_that_fits_is_read_once_and_never_again() {
    let world = world("LlamaForCausalLM", false, 3);
    let plan = world.plan(64 << 20).unwrap();
    assert_eq!(plan.ring, None);
    let mut store = world.open(&plan).unwrap();
    for _ in 0..3 {
        world.pass(&mut store).unwrap();
    }
    let counters = store.counters();
    assert_eq!((counters.streamed, counters.reads), (Bytes::ZERO, 0));
    assert_eq!(counters.loaded, plan.memory.resident);
}

#[test]
fn rows_are_looked_up_in_memory_where_the_head_is_the_embedding_and_on_disk_else() {
    for tied in [true, false] {
        let world = world("LlamaForCausalLM", tied, 2);
        let plan = if tied { world.plan(64 << 20).unwrap() } else { world.streaming() };
        let mut store = world.open(&plan).unwrap();
        let whole = world.bytes(world.weights[0].tensor.span);
        let row = whole.len() / world.weights[0].rows() as usize;
        let mut out = vec![0; row];
        for number in [0, 1, 50, world.weights[0].rows() - 1] {
            store.lookup(0, number, &mut out).unwrap();
            assert_eq!(out, &whole[number as usize * row..(number as usize + 1) * row]);
        }
        assert_eq!(store.counters().looked_up > Bytes::ZERO, !tied);
        let outside = store.lookup(0, world.weights[0].rows(), &mut out).unwrap_err();
        assert_eq!(outside.code(), "stream.order");
    }
}

#[test]
fn a_pass_that_was_left_in_the_middle_can_be_started_again() {
    without_hanging(|| {
        let world = world("Qwen3ForCausalLM", false, 1);
        let plan = world.streaming();
        let mut store = world.open(&plan).unwrap();
        store.expect_passes(None);
        let first = world.weights.iter().position(|weight| weight.access == Access::Rows).unwrap();
        for _ in 0..3 {
            let mut parts = store.parts(first);
            assert!(parts.next().unwrap().is_ok());
            store.rewind().unwrap();
            world.pass(&mut store).unwrap();
        }
        // Without starting again, what comes next is not what is asked for.
        store.rewind().unwrap();
        let last = world.weights.iter().rposition(|weight| weight.access == Access::Rows).unwrap();
        let wrong = plan.blocks.iter().rposition(|block| block.home == Home::Disk).unwrap();
        assert_eq!(plan.blocks[wrong].weight, last);
        let mut parts = store.parts(last);
        let mut refused = None;
        while let Some(part) = parts.next() {
            if let Err(error) = part {
                refused = Some(error.code());
                break;
            }
        }
        assert_eq!(refused, Some("stream.order"));
    });
}

#[test]
fn short_and_interrupted_reads_are_finished() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 2);
        let plan = world.streaming();
        let source = world.faulty(|system: &SystemFiles, number, file, offset, buf: &mut [u8]| {
            match number % 3 {
                0 => Err(io::ErrorKind::Interrupted.into()),
                1 => {
                    let some = buf.len().div_ceil(3);
                    system.read_at(file, offset, &mut buf[..some])
                }
                _ => system.read_at(file, offset, buf),
            }
        });
        let mut store = world.open_from(&plan, source).unwrap();
        store.expect_passes(Some(2));
        world.pass(&mut store).unwrap();
        world.pass(&mut store).unwrap();
    });
}

#[test]
fn a_disk_that_fails_is_named_with_the_place_and_nothing_hangs() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 1);
        let plan = world.streaming();
        // Every read that is tried after the load fails.
        let broken = Arc::new(AtomicUsize::new(0));
        let switch = Arc::clone(&broken);
        let source = world.faulty(move |system: &SystemFiles, _, file, offset, buf: &mut [u8]| {
            if switch.load(Ordering::SeqCst) == 1 {
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
            }
            system.read_at(file, offset, buf)
        });
        let mut store = world.open_from(&plan, source).unwrap();
        broken.store(1, Ordering::SeqCst);
        store.expect_passes(None);
        let error = world.pass(&mut store).unwrap_err();
        let StreamError::Read { path, offset, .. } = &error else { panic!("{error}") };
        assert_eq!(path, &world.model.manifest.files[0].path);
        assert!(error.to_string().contains(&offset.get().to_string()));
        // Once the disk is well, the pass can be made from its start.
        broken.store(0, Ordering::SeqCst);
        assert!(world.pass(&mut store).is_err(), "the failed pass cannot go on");
        store.rewind().unwrap();
        world.pass(&mut store).unwrap();
    });
}

#[test]
fn a_failure_while_loading_is_an_error_of_opening() {
    let world = world("LlamaForCausalLM", false, 1);
    let plan = world.plan(64 << 20).unwrap();
    let source = world.faulty(|_: &SystemFiles, _, _, _, _: &mut [u8]| {
        Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()))
    });
    let error = world.open_from(&plan, source).err().unwrap();
    assert_eq!(error.code(), "stream.read");
}

#[test]
fn a_file_that_is_cut_short_or_written_to_while_it_is_used_is_noticed() {
    without_hanging(|| {
        for cut in [true, false] {
            let world = world("LlamaForCausalLM", false, 1);
            let plan = world.streaming();
            let mut store = world.open(&plan).unwrap();
            store.expect_passes(Some(1));
            world.pass(&mut store).unwrap();
            let path = &world.model.manifest.files[0].path;
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            if cut {
                file.set_len(4096).unwrap();
            } else {
                let later = std::time::SystemTime::now() + Duration::from_secs(5);
                file.set_modified(later).unwrap();
            }
            let error = world.pass(&mut store).unwrap_err();
            assert!(matches!(error.code(), "stream.ended" | "stream.changed"), "{error}");
            assert!(error.to_string().contains(&path.display().to_string()));
        }
    });
}

#[test]
fn a_file_of_another_size_than_its_header_said_is_refused() {
    let world = world("LlamaForCausalLM", false, 1);
    let plan = world.streaming();
    let path = &world.model.manifest.files[0].path;
    let mut longer = world.contents[0].clone();
    longer.push(0);
    std::fs::write(path, longer).unwrap();
    assert_eq!(world.open(&plan).err().unwrap().code(), "stream.changed");
    std::fs::remove_file(path).unwrap();
    assert_eq!(world.open(&plan).err().unwrap().code(), "stream.open");
}

#[test]
fn a_slow_disk_is_waited_for_and_the_wait_is_counted() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 1);
        let plan = world.streaming();
        let gate = Arc::new((Mutex::new(true), Condvar::new()));
        let held = Arc::clone(&gate);
        let source = world.faulty(move |system: &SystemFiles, _, file, offset, buf: &mut [u8]| {
            let (open, changed) = &*held;
            let _open = changed.wait_while(open.lock().unwrap(), |open| !*open).unwrap();
            system.read_at(file, offset, buf)
        });
        let mut store = world.open_from(&plan, source).unwrap();
        *gate.0.lock().unwrap() = false;
        store.expect_passes(Some(1));
        let opener = std::thread::spawn(move || {
            std::thread::park_timeout(Duration::from_millis(20));
            *gate.0.lock().unwrap() = true;
            gate.1.notify_all();
        });
        world.pass(&mut store).unwrap();
        opener.join().unwrap();
        assert!(store.counters().stall > Duration::ZERO);
    });
}

#[test]
fn reads_through_the_page_cache_give_the_same_bytes_and_say_why() {
    let world = world("LlamaForCausalLM", false, 1);
    let plan = world.streaming();
    let options = StoreOptions { direct: DirectIo::Never, ..StoreOptions::default() };
    let files = &world.model.manifest.files;
    let mut store = Store::open(files, &world.weights, &plan, &options, &mut |_, _| {}).unwrap();
    store.expect_passes(Some(2));
    world.pass(&mut store).unwrap();
    world.pass(&mut store).unwrap();
    assert_eq!(
        store.counters().buffered_because.as_deref(),
        Some("direct reads were switched off")
    );
}

#[test]
fn a_file_system_in_memory_works_with_or_without_direct_reads() {
    let shared_memory = Path::new("/dev/shm");
    if !shared_memory.is_dir() {
        return;
    }
    let world = world_in(shared_memory, "LlamaForCausalLM", false, 1);
    let plan = world.streaming();
    let mut store = world.open(&plan).unwrap();
    store.expect_passes(Some(1));
    world.pass(&mut store).unwrap();
    if let Some(why) = store.counters().buffered_because {
        assert!(why.contains("refuses direct reads"), "{why}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_plan_hands_out_the_files_bytes_pass_after_pass(
        architecture in prop_oneof![
            Just("LlamaForCausalLM"), Just("Phi3ForCausalLM"), Just("Gemma2ForCausalLM")
        ],
        tied in any::<bool>(),
        shards in 1_usize..4,
        room in 0_u64..600_000,
        passes in 1_u64..4,
    ) {
        let world = world(architecture, tied, shards);
        let Some(plan) = world.plan(room) else { return Ok(()) };
        let mut store = world.open(&plan).unwrap();
        store.expect_passes(Some(passes));
        for _ in 0..passes {
            world.pass(&mut store).unwrap();
        }
        prop_assert_eq!(store.counters().streamed, streamed_per_pass(&plan).saturating_mul(passes));
    }
}
