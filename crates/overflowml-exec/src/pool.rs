//! Threads that share one piece of work at a time.
//!
//! A token's pass hands out a piece of work every few dozen microseconds: waking a thread through the kernel would
//! cost as much as the work. Idle threads therefore spin for a moment before they sleep.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// How often an idle thread looks for work before it sleeps: about 50 microseconds.
const SPINS: usize = 4000;

/// A piece of work: called with the thread's number and the number of threads.
type Work = dyn Fn(usize, usize) + Sync;

/// A fixed number of threads, the caller's own among them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a piece of work is under way.
    turn: Mutex<()>,
}

struct Shared {
    threads: usize,
    /// The work of the current generation. Written only while no worker is busy; read by workers only between
    /// seeing its generation and counting themselves out of `busy`.
    work: UnsafeCell<Option<*const Work>>,
    /// Counts pieces of work.
    generation: AtomicUsize,
    /// Workers that have not finished the current one.
    busy: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// Workers that sleep, or are about to.
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `work` is accessed as its comment says: the generation counter orders the write before the workers'
// reads, and `busy` orders those before the next write. What it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; a raw pointer to something `Sync` may move to another thread.
unsafe impl Send for Shared {}

impl Pool {
    /// `threads` threads, at least one; one is the caller's own, so that nothing is started for it.
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            threads,
            work: UnsafeCell::new(None),
            generation: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let start = |index| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.serve(index))
        };
        let workers = (1..threads).map(start).collect();
        Self { shared, workers, turn: Mutex::new(()) }
    }

    /// How many threads share a piece of work.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Calls `work(thread, threads)` once on every thread; returns when all have returned.
    ///
    /// Must not be called from within `work`.
    ///
    /// # Panics
    /// If `work` does on any thread.
    pub fn run(&self, work: &(impl Fn(usize, usize) + Sync)) {
        let threads = self.threads();
        if threads == 1 {
            return work(0, 1);
        }
        let _turn = ignore_poison(self.turn.lock());
        let work: &(dyn Fn(usize, usize) + Sync + '_) = work;
        // SAFETY: only the lifetime changes, and the pointer is not used beyond it: `wait` below, which runs even
        // if `work` unwinds, returns when no worker will touch it any more.
        let erased: *const Work = unsafe {
            std::mem::transmute::<&(dyn Fn(usize, usize) + Sync + '_), &'static Work>(work)
        };
        let wait = Wait(&self.shared);
        self.shared.announce(erased);
        work(0, threads);
        drop(wait);
        if self.shared.panicked.swap(false, Ordering::Relaxed) {
            std::panic::panic_any("a thread of the pool panicked");
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.next_generation();
        for worker in self.workers.drain(..) {
            // A panic of a worker was passed on when it happened.
            let _ = worker.join();
        }
    }
}

/// Waits on drop until all workers have finished the current work.
struct Wait<'a>(&'a Shared);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut spins = 0;
        while self.0.busy.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

impl Shared {
    /// Gives `work` to all workers. None may be busy.
    fn announce(&self, work: *const Work) {
        self.busy.store(self.threads - 1, Ordering::Relaxed);
        // SAFETY: no worker is busy, so none reads, and `Pool::run` holds its turn, so nobody else writes.
        unsafe { *self.work.get() = Some(work) };
        self.next_generation();
    }

    fn next_generation(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        // A worker counts itself a sleeper before it looks at the generation for the last time, both in the one
        // order of SeqCst: either it sees this generation or it is seen here.
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(ignore_poison(self.lock.lock()));
            self.wake.notify_all();
        }
    }

    /// A worker's life.
    fn serve(&self, index: usize) {
        let mut seen = 0;
        loop {
            self.wait_for_more_than(seen);
            seen += 1;
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            // SAFETY: this worker has seen the work's generation and has not counted itself out yet.
            let work = unsafe { *self.work.get() };
            if let Some(work) = work {
                // SAFETY: `Pool::run` keeps the work alive until this worker counts itself out below.
                let work = unsafe { &*work };
                if catch_unwind(AssertUnwindSafe(|| work(index, self.threads))).is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }

    fn wait_for_more_than(&self, seen: usize) {
        for _ in 0..SPINS {
            if self.generation.load(Ordering::Acquire) != seen {
                return;
            }
            std::hint::spin_loop();
        }
        let mut guard = ignore_poison(self.lock.lock());
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.generation.load(Ordering::SeqCst) == seen {
            guard = ignore_poison(self.wake.wait(guard));
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The locks guard no data that a panic could leave half-changed.
fn ignore_poison<'a>(
    locked: Result<MutexGuard<'a, ()>, PoisonError<MutexGuard<'a, ()>>>,
) -> MutexGuard<'a, ()> {
    locked.unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_does_its_part_of_every_piece_of_work() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            let calls: Vec<_> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for round in 0..2000 {
                pool.run(&|thread, of| {
                    assert_eq!(of, threads);
                    calls[thread].fetch_add(1, Ordering::Relaxed);
                });
                for count in &calls {
                    assert_eq!(count.load(Ordering::Relaxed), round + 1);
                }
                if round % 500 == 0 {
                    // Long enough that workers sleep.
                    std::thread::yield_now();
                    (0..50 * SPINS).for_each(|_| std::hint::spin_loop());
                }
            }
        }
    }

    #[test]
    fn a_panic_on_any_thread_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(3);
        for bad in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(&|thread, _| assert_ne!(thread, bad, "as intended"));
            }));
            assert!(result.is_err());
            let calls = AtomicUsize::new(0);
            pool.run(&|_, _| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(calls.load(Ordering::Relaxed), 3);
        }
    }
}
