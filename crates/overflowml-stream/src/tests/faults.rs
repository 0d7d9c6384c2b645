//! Faults in the middle of a run: a typed error that names file and place, never a wrong byte,
//! never a hang.

use std::fs::{self, OpenOptions};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use overflowml_plan::Block;
use rustix::io::Errno;

use super::*;

fn streamed(plan: &Plan) -> Vec<Block> {
    plan.blocks.iter().filter(|block| block.home == Home::Disk).cloned().collect()
}

fn broken_disk() -> io::Error {
    io::Error::from_raw_os_error(Errno::IO.raw_os_error())
}

/// Whether a read at `offset` takes anything of `block`.
fn touches(block: &Block, file: usize, offset: u64, len: usize) -> bool {
    let stored = block.stored();
    block.span.file.0 as usize == file
        && offset < stored.end().get()
        && offset + len as u64 > stored.offset.get()
}

#[test]
fn one_bad_place_stops_the_pass_there_and_everything_before_it_is_right() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 3);
        let plan = world.streaming();
        let blocks = streamed(&plan);
        for bad in [0, blocks.len() / 2, blocks.len() - 1] {
            let block = blocks[bad].clone();
            let healthy = Arc::new(AtomicBool::new(true));
            let switch = Arc::clone(&healthy);
            let source =
                world.faulty(move |system: &SystemFiles, _, file, offset, buf: &mut [u8]| {
                    match touches(&block, file, offset, buf.len()) && !switch.load(Ordering::SeqCst)
                    {
                        true => Err(broken_disk()),
                        false => system.read_at(file, offset, buf),
                    }
                });
            let mut store = world.open_from(&plan, source).unwrap();
            store.expect_passes(Some(1));
            world.pass(&mut store).unwrap();
            healthy.store(false, Ordering::SeqCst);
            store.expect_passes(None);
            // The neighbours share sectors with the bad place: they may be what fails.
            let error = world.pass(&mut store).unwrap_err();
            let StreamError::Read { path, offset, source, .. } = &error else { panic!("{error}") };
            assert_eq!(source.raw_os_error(), Some(Errno::IO.raw_os_error()));
            let failed = blocks.iter().position(|block| {
                let file = &world.model.manifest.files[block.span.file.0 as usize];
                file.path == *path && block.stored().offset == *offset
            });
            assert!(failed.is_some_and(|failed| failed.abs_diff(bad) <= 1), "{error}");
            if bad == 0 {
                // The pass that failed at its first block is not waited for again.
                let refused = world.pass(&mut store).unwrap_err();
                assert_eq!(refused.code(), "stream.order");
            }
            healthy.store(true, Ordering::SeqCst);
            store.rewind().unwrap();
            world.pass(&mut store).unwrap();
        }
    });
}

#[test]
fn a_disk_that_fails_is_left_alone_until_the_pass_begins_again() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 1);
        let plan = world.streaming();
        let failures = Arc::new(AtomicUsize::new(0));
        let failing = Arc::new(AtomicBool::new(false));
        let (counter, switch) = (Arc::clone(&failures), Arc::clone(&failing));
        let source = world.faulty(move |system: &SystemFiles, _, file, offset, buf: &mut [u8]| {
            if switch.load(Ordering::SeqCst) {
                counter.fetch_add(1, Ordering::SeqCst);
                return Err(broken_disk());
            }
            system.read_at(file, offset, buf)
        });
        let mut store = world.open_from(&plan, source).unwrap();
        store.expect_passes(Some(1));
        world.pass(&mut store).unwrap();
        failing.store(true, Ordering::SeqCst);
        store.expect_passes(None);
        assert_eq!(world.pass(&mut store).unwrap_err().code(), "stream.read");
        // Time for further reads, if there were any.
        (0..2000).for_each(|_| std::thread::yield_now());
        drop(store);
        let readers = StoreOptions::default().readers;
        assert!((1..=readers).contains(&failures.load(Ordering::SeqCst)));
    });
}

#[test]
fn a_row_that_cannot_be_looked_up_is_an_error_and_the_next_one_is_not() {
    let world = world("LlamaForCausalLM", false, 1);
    let plan = world.streaming();
    let failing = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&failing);
    let source = world.faulty(move |system: &SystemFiles, _, file, offset, buf: &mut [u8]| {
        match switch.load(Ordering::SeqCst) {
            true => Err(broken_disk()),
            false => system.read_at(file, offset, buf),
        }
    });
    let mut store = world.open_from(&plan, source).unwrap();
    store.expect_passes(Some(1));
    world.pass(&mut store).unwrap();
    failing.store(true, Ordering::SeqCst);
    let mut row = vec![0; 128];
    assert_eq!(store.lookup(0, 3, &mut row).unwrap_err().code(), "stream.read");
    failing.store(false, Ordering::SeqCst);
    store.lookup(0, 3, &mut row).unwrap();
    let embedding = world.bytes(world.weights[0].tensor.span);
    assert_eq!(row, embedding[3 * 128..4 * 128]);
    world.pass(&mut store).unwrap();
}

#[test]
fn a_row_behind_the_end_of_a_file_that_was_cut_is_told_with_that_end() {
    let world = world("LlamaForCausalLM", false, 1);
    let plan = world.streaming();
    let span = world.weights[0].tensor.span;
    for direct in [DirectIo::Auto, DirectIo::Never] {
        let path = &world.model.manifest.files[0].path;
        fs::write(path, &world.contents[0]).unwrap();
        let options = StoreOptions { direct, ..StoreOptions::default() };
        let files = &world.model.manifest.files;
        let mut store =
            Store::open(files, &world.weights, &plan, &options, &mut |_, _| {}).unwrap();
        // In the middle of a row and of a sector.
        let cut = span.offset.get() + 50 * 128 + 64;
        OpenOptions::new().write(true).open(path).unwrap().set_len(cut).unwrap();
        let error = store.lookup(0, 50, &mut [0; 128]).unwrap_err();
        let StreamError::Ended { path: named, end, needed } = &error else { panic!("{error}") };
        assert_eq!((named, end.get(), needed.get()), (path, cut, cut + 64));
    }
}

#[test]
fn a_file_that_is_overwritten_in_a_run_is_noticed_before_its_bytes_are_used() {
    without_hanging(|| {
        for direct in [DirectIo::Auto, DirectIo::Never] {
            let world = world("Qwen2ForCausalLM", false, 2);
            let plan = world.streaming();
            let files = &world.model.manifest.files;
            let options = StoreOptions { direct, ..StoreOptions::default() };
            let mut store =
                Store::open(files, &world.weights, &plan, &options, &mut |_, _| {}).unwrap();
            store.expect_passes(Some(1));
            world.pass(&mut store).unwrap();
            let path = &files[1].path;
            fs::write(path, vec![0xff; world.contents[1].len()]).unwrap();
            // Clocks of file systems are coarse: a change within one tick could not be seen.
            let later = SystemTime::now() + Duration::from_secs(5);
            OpenOptions::new().write(true).open(path).unwrap().set_modified(later).unwrap();
            let error = world.pass(&mut store).unwrap_err();
            assert_eq!(error.code(), "stream.changed");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
    });
}

#[test]
fn a_file_that_is_replaced_by_another_goes_on_being_read_as_it_was() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 1);
        let plan = world.streaming();
        let mut store = world.open(&plan).unwrap();
        store.expect_passes(Some(1));
        world.pass(&mut store).unwrap();
        let path = &world.model.manifest.files[0].path;
        let other = path.with_extension("new");
        fs::write(&other, vec![0xff; world.contents[0].len()]).unwrap();
        fs::rename(&other, path).unwrap();
        world.pass(&mut store).unwrap();
        fs::remove_file(path).unwrap();
        world.pass(&mut store).unwrap();
    });
}

#[test]
fn a_reader_that_panics_ends_the_pass_and_every_later_one() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 1);
        let plan = world.streaming();
        let armed = Arc::new(AtomicBool::new(false));
        let switch = Arc::clone(&armed);
        let source = world.faulty(move |system: &SystemFiles, _, file, offset, buf: &mut [u8]| {
            assert!(!switch.swap(false, Ordering::SeqCst), "a test's panic, as intended");
            system.read_at(file, offset, buf)
        });
        let mut store = world.open_from(&plan, source).unwrap();
        store.expect_passes(Some(1));
        world.pass(&mut store).unwrap();
        armed.store(true, Ordering::SeqCst);
        store.expect_passes(None);
        assert_eq!(world.pass(&mut store).unwrap_err().code(), "stream.thread");
        store.rewind().unwrap();
        assert_eq!(world.pass(&mut store).unwrap_err().code(), "stream.thread");
    });
}

#[test]
fn a_reader_that_panics_while_loading_is_an_error_of_opening() {
    without_hanging(|| {
        let world = world("LlamaForCausalLM", false, 1);
        let plan = world.plan(64 << 20).unwrap();
        let source = world.faulty(|system: &SystemFiles, number, file, offset, buf: &mut [u8]| {
            assert_ne!(number, 2, "a test's panic, as intended");
            system.read_at(file, offset, buf)
        });
        let error = world.open_from(&plan, source).err().unwrap();
        assert_eq!(error.code(), "stream.thread");
        assert!(error.to_string().contains("panicked"), "{error}");
    });
}

#[test]
fn a_file_that_cannot_be_asked_about_is_an_error() {
    struct Mute(SystemFiles, AtomicUsize, usize);
    impl Source for Mute {
        fn read_at(&self, file: usize, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read_at(file, offset, buf)
        }
        fn alignment(&self) -> usize {
            1
        }
        fn fingerprint(&self, file: usize) -> io::Result<Fingerprint> {
            match self.1.fetch_add(1, Ordering::SeqCst) < self.2 {
                true => self.0.fingerprint(file),
                false => Err(broken_disk()),
            }
        }
    }
    let world = world("LlamaForCausalLM", false, 1);
    let plan = world.plan(64 << 20).unwrap();
    let mute = |after| world.open_from(&plan, Mute(world.system(), AtomicUsize::new(0), after));
    assert_eq!(mute(0).err().unwrap().code(), "stream.open");
    assert_eq!(mute(3).err().unwrap().code(), "stream.read");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn short_and_interrupted_reads_never_change_a_byte(
        seed in any::<u64>(),
        direct in any::<bool>(),
        room in 0_u64..300_000,
        shards in 1_usize..4,
    ) {
        let world = world("Phi3ForCausalLM", false, shards);
        let Some(plan) = world.plan(room) else { return Ok(()) };
        let mut source = world.faulty(
            move |system: &SystemFiles, number, file, offset, buf: &mut [u8]| {
                let random = (seed ^ number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
                let least = if direct { 4096 } else { 1 };
                let most = buf.len().min(least + random as usize % 20_000);
                match random % 4 {
                    0 => Err(io::ErrorKind::Interrupted.into()),
                    1 => system.read_at(file, offset, buf),
                    _ => system.read_at(file, offset, &mut buf[..most]),
                }
            },
        );
        source.alignment = if direct { 4096 } else { 1 };
        let mut store = world.open_from(&plan, source).unwrap();
        store.expect_passes(Some(2));
        world.pass(&mut store).unwrap();
        world.pass(&mut store).unwrap();
        prop_assert_eq!(store.counters().streamed, streamed_per_pass(&plan).saturating_mul(2));
    }
}
