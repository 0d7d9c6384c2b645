//! Groups against their files' bytes: in and out of order, on sound disks and faulty ones.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use overflowml_types::FileId;
use proptest::prelude::*;

use super::*;
use crate::files::Fingerprint;
use crate::tests::without_hanging;

/// Two files of noise, cut into groups of very different sizes.
struct World {
    _folder: tempfile::TempDir,
    paths: Vec<PathBuf>,
    contents: Vec<Vec<u8>>,
    groups: Vec<Vec<FileSpan>>,
}

fn span(file: u32, offset: u64, len: u64) -> FileSpan {
    FileSpan { file: FileId(file), offset: Bytes::new(offset), len: Bytes::new(len) }
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let mut seed = 7_u64;
    let mut noise = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    };
    let contents: Vec<Vec<u8>> =
        [9_000_001, 70_003].map(|len| (0..len).map(|_| noise()).collect()).into();
    let paths: Vec<PathBuf> =
        (0..2).map(|index| folder.path().join(format!("{index}.bin"))).collect();
    for (path, bytes) in paths.iter().zip(&contents) {
        std::fs::write(path, bytes).unwrap();
    }
    let groups = vec![
        vec![span(0, 0, 5_000_000)],
        vec![span(0, 5_000_000, 20_000), span(1, 3, 1000)],
        vec![span(0, 5_020_000, 70_000)],
        vec![span(1, 69_000, 1003), span(1, 10_000, 5000)],
        vec![span(0, 5_200_000, 3_800_001)],
        vec![span(1, 20_000, 9), span(1, 20_009, 0), span(1, 20_009, 4000)],
    ];
    World { _folder: folder, paths, contents, groups }
}

impl World {
    fn request(&self) -> GroupRequest {
        GroupRequest {
            files: self.paths.clone(),
            groups: self.groups.clone(),
            order: vec![1, 2, 3, 5],
            ..GroupRequest::default()
        }
    }

    /// Fails if the group, which must be held, is not what the files have.
    fn check(&self, group: usize, slab: &Slab) {
        for (index, span) in self.groups[group].iter().enumerate() {
            // SAFETY: callers hold the group.
            let found = unsafe { slab.span(index) }.unwrap();
            let start = span.offset.to_usize().unwrap();
            let wanted = &self.contents[span.file.0 as usize][start..start + found.len()];
            assert_eq!(found.len() as u64, span.len.get());
            assert!(found == wanted, "group {group}, span {index}: stale or wrong bytes");
        }
    }

    fn visit(&self, store: &GroupStore, group: usize) -> Result<(), StreamError> {
        let slab = store.acquire(group)?;
        self.check(group, &slab);
        store.release(group)
    }

    fn visit_all(&self, store: &GroupStore, groups: &[usize]) {
        groups.iter().for_each(|&group| self.visit(store, group).unwrap());
    }

    /// A store on a disk that answers as `answer` says: an error, or what the file has.
    fn on_disk(
        &self,
        request: &GroupRequest,
        answer: impl Fn(u64) -> Option<io::Error> + Send + Sync + 'static,
    ) -> GroupStore {
        let files: Vec<ModelFile> = self.paths.iter().map(|path| known(path).unwrap()).collect();
        let system = SystemFiles::open(&files, DirectIo::Never).unwrap();
        let disk = Disk { system, answer: Box::new(answer) };
        GroupStore::from_source(request, &files, Box::new(disk)).unwrap()
    }
}

type Answer = Box<dyn Fn(u64) -> Option<io::Error> + Send + Sync>;

struct Disk {
    system: SystemFiles,
    answer: Answer,
}

impl Source for Disk {
    fn read_at(&self, file: usize, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match (self.answer)(offset) {
            Some(error) => Err(error),
            None => self.system.read_at(file, offset, buf),
        }
    }

    fn alignment(&self) -> usize {
        self.system.alignment()
    }

    fn fingerprint(&self, file: usize) -> io::Result<Fingerprint> {
        self.system.fingerprint(file)
    }
}

fn size(world: &World, group: usize) -> Bytes {
    let files: Vec<ModelFile> = world.paths.iter().map(|path| known(path).unwrap()).collect();
    Layout::of(&world.groups[group], &files).unwrap().size()
}

#[test]
fn memory_is_what_stays_and_the_slots_of_the_largest_group_that_rotates() {
    let world = world();
    let request = GroupRequest { resident: vec![0, 1, 0], slots: 3, ..world.request() };
    let store = GroupStore::open(&request).unwrap();
    let resident = size(&world, 0).saturating_add(size(&world, 1));
    let largest = [2, 3, 5].map(|group| size(&world, group)).into_iter().max().unwrap();
    let counters = store.counters();
    assert_eq!(counters.resident, resident);
    assert_eq!(counters.host, resident.saturating_add(largest.saturating_mul(3)));
    for _ in 0..3 {
        (0..4).for_each(|group| world.visit(&store, group).unwrap());
    }
    assert_eq!(store.counters().host_peak, counters.host);
}

#[test]
fn a_pass_reads_what_rotates_and_nothing_else() {
    without_hanging(|| {
        let world = world();
        let request = GroupRequest { resident: vec![0, 3], ..world.request() };
        let store = GroupStore::open(&request).unwrap();
        world.visit_all(&store, &[0, 3]);
        let (stays, pass) = (store.counters().resident, store.counters().bytes_per_pass);
        let passes = 5;
        (0..passes).for_each(|_| world.visit_all(&store, &[1, 2, 3, 5]));
        // Beside them, what is read ahead for the next.
        world.visit_all(&store, &[1, 2]);
        let counters = store.counters();
        let used = stays.saturating_add(pass.saturating_mul(passes));
        assert!((used..=used.saturating_add(pass)).contains(&counters.bytes_read));
        assert_eq!(counters.misses, 0);
        let weights = [1, 2, 5].iter().flat_map(|&group| &world.groups[group]);
        assert_eq!(counters.weights_per_pass, weights.map(|span| span.len).sum());
    });
}

#[test]
fn after_the_last_pass_nothing_is_read() {
    without_hanging(|| {
        let world = world();
        let request = GroupRequest { cyclic: false, slots: 1, ..world.request() };
        let store = GroupStore::open(&request).unwrap();
        for pass in 1..4 {
            world.visit_all(&store, &[1, 2, 3, 5]);
            let counters = store.counters();
            assert_eq!(counters.bytes_read, counters.bytes_per_pass.saturating_mul(pass));
            assert_eq!(counters.misses, 0);
        }
    });
}

#[test]
fn reading_goes_on_behind_a_group_that_was_asked_for_out_of_order() {
    without_hanging(|| {
        let world = world();
        let store = GroupStore::open(&world.request()).unwrap();
        for (group, misses) in [(1, 0), (3, 1), (5, 1), (1, 1), (5, 2), (1, 2), (2, 2)] {
            world.visit(&store, group).unwrap();
            assert_eq!(store.counters().misses, misses, "after group {group}");
        }
    });
}

#[test]
fn groups_that_all_have_a_slot_are_read_once() {
    let world = world();
    let request = GroupRequest { slots: 9, ..world.request() };
    let store = GroupStore::open(&request).unwrap();
    for _ in 0..5 {
        world.visit_all(&store, &[1, 2, 3, 5]);
    }
    let counters = store.counters();
    assert_eq!(counters.bytes_read, counters.bytes_per_pass);
}

#[test]
fn more_groups_than_slots_cannot_be_held_at_once() {
    let world = world();
    let store = GroupStore::open(&world.request()).unwrap();
    let slabs = [1, 2].map(|group| store.acquire(group).unwrap());
    let refused = store.acquire(3).unwrap_err();
    assert_eq!(refused.code(), "stream.no-slot");
    [1, 2].iter().zip(&slabs).for_each(|(&group, slab)| world.check(group, slab));
    store.release(1).unwrap();
    world.visit(&store, 3).unwrap();
    assert_eq!(store.counters().misses, 0);
    assert_eq!(store.release(1).unwrap_err().code(), "stream.order");
}

#[test]
fn a_group_outside_the_order_has_memory_only_while_it_is_held() {
    let world = world();
    let store = GroupStore::open(&world.request()).unwrap();
    let before = store.counters().host;
    let slab = store.acquire(4).unwrap();
    world.check(4, &slab);
    assert_eq!(store.counters().host, before.saturating_add(size(&world, 4)));
    store.release(4).unwrap();
    assert_eq!(store.counters().host, before);
    assert_eq!(store.counters().host_peak, before.saturating_add(size(&world, 4)));
    world.visit_all(&store, &[0, 4, 4]);
    assert_eq!(store.counters().misses, 0);
}

#[test]
fn a_closed_store_gives_nothing_and_takes_nothing_back() {
    without_hanging(|| {
        let world = world();
        let request = GroupRequest { resident: vec![0], ..world.request() };
        let store = GroupStore::open(&request).unwrap();
        let kept = store.acquire(0).unwrap();
        store.close();
        store.close();
        assert_eq!(store.acquire(1).unwrap_err().code(), "stream.closed");
        assert_eq!(store.acquire(0).unwrap_err().code(), "stream.closed");
        drop(store);
        world.check(0, &kept);
    });
}

#[test]
fn who_waits_for_a_group_is_told_that_the_store_is_closed() {
    without_hanging(|| {
        let world = world();
        // A disk that is always interrupted never ends a read until it is let go.
        let stuck = Arc::new(AtomicBool::new(true));
        let switch = Arc::clone(&stuck);
        let store = world.on_disk(&world.request(), move |_| {
            std::thread::yield_now();
            switch.load(Ordering::SeqCst).then(|| io::ErrorKind::Interrupted.into())
        });
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| store.acquire(1));
            while store.counters().acquired == 0 {
                std::thread::yield_now();
            }
            let closing = scope.spawn(|| store.close());
            assert_eq!(waiting.join().unwrap().unwrap_err().code(), "stream.closed");
            stuck.store(false, Ordering::SeqCst);
            closing.join().unwrap();
        });
    });
}

#[test]
fn a_read_that_failed_is_told_once_and_tried_again() {
    without_hanging(|| {
        let world = world();
        let broken = Arc::new(AtomicBool::new(true));
        let switch = Arc::clone(&broken);
        let request = GroupRequest { resident: vec![0], ..world.request() };
        let store = world.on_disk(&request, move |_| {
            switch.load(Ordering::SeqCst).then(|| io::Error::other("a broken disk"))
        });
        for group in [0, 1, 4] {
            assert_eq!(store.acquire(group).unwrap_err().code(), "stream.read", "group {group}");
        }
        broken.store(false, Ordering::SeqCst);
        // What was read ahead meanwhile may have failed too: each failure is told, and no more than once.
        let mut failures = 0;
        for group in [0, 1, 2, 3, 5, 1, 4] {
            while let Err(error) = world.visit(&store, group) {
                assert_eq!(error.code(), "stream.read");
                failures += 1;
            }
        }
        assert!(failures <= 2, "{failures} failures after the disk was sound again");
        assert_eq!(store.counters().misses, 0);
    });
}

#[test]
fn a_file_that_was_cut_or_changed_is_not_used() {
    let world = world();
    let cut = vec![vec![span(1, 70_000, 4)]];
    let refused = GroupStore::open(&GroupRequest {
        files: world.paths.clone(),
        groups: cut,
        resident: vec![0],
        ..GroupRequest::default()
    });
    assert_eq!(refused.err().unwrap().code(), "stream.ended");
    let store = GroupStore::open(&world.request()).unwrap();
    world.visit(&store, 1).unwrap();
    std::fs::OpenOptions::new().write(true).open(&world.paths[0]).unwrap().set_len(100).unwrap();
    let error = store.acquire(4).unwrap_err();
    assert!(["stream.ended", "stream.changed"].contains(&error.code()), "{error}");
}

#[test]
fn groups_that_do_not_exist_are_refused() {
    let world = world();
    for wrong in [
        GroupRequest { order: vec![6], ..world.request() },
        GroupRequest { resident: vec![99], ..world.request() },
        GroupRequest { slots: 0, ..world.request() },
    ] {
        assert_eq!(GroupStore::open(&wrong).err().unwrap().code(), "stream.layout");
    }
    let store = GroupStore::open(&world.request()).unwrap();
    assert_eq!(store.acquire(6).unwrap_err().code(), "stream.layout");
    assert_eq!(store.release(6).unwrap_err().code(), "stream.layout");
}

#[test]
fn several_threads_on_a_disk_with_gaps_see_right_bytes_or_an_error() {
    without_hanging(|| {
        let world = world();
        let reads = AtomicU64::new(0);
        let request = GroupRequest { resident: vec![3], slots: 3, ..world.request() };
        let store = world.on_disk(&request, move |_| {
            let number = reads.fetch_add(1, Ordering::Relaxed);
            number.is_multiple_of(7).then(|| io::Error::other("a gap"))
        });
        std::thread::scope(|scope| {
            for thread in 0..3_usize {
                let (world, store) = (&world, &store);
                scope.spawn(move || {
                    for turn in 0..200_usize {
                        let group = (turn * (thread + 1) + thread) % 6;
                        if let Err(error) = world.visit(store, group) {
                            assert!(["stream.read", "stream.no-slot"].contains(&error.code()));
                        }
                    }
                });
            }
        });
        let held = store.counters();
        assert!(held.host <= held.host_peak);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_order_of_use_gives_the_files_bytes(
        order in prop::collection::vec(0..6_usize, 1..8),
        resident in prop::collection::vec(0..6_usize, 0..3),
        visits in prop::collection::vec(0..6_usize, 1..30),
        slots in 1..4_usize,
        cyclic: bool,
    ) {
        without_hanging(move || {
            let world = world();
            let request = GroupRequest { order, resident, slots, cyclic, ..world.request() };
            let store = GroupStore::open(&request).unwrap();
            visits.iter().for_each(|&group| world.visit(&store, group).unwrap());
        });
    }
}
