//! Reads what stays in memory, once, with several readers.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use overflowml_plan::Run;
use overflowml_types::{Bytes, FileSpan};

use crate::buffer::Buffer;
use crate::error::StreamError;
use crate::files::Files;

/// What is said of a reader that is gone.
pub(crate) const PANICKED: &str = "a reader thread panicked";

/// Size of one read: large enough for any disk's full speed, small enough to share the work.
const PIECE: usize = 4 << 20;

/// A part of a run and the memory it goes to.
struct Piece<'a> {
    span: FileSpan,
    to: &'a mut [u8],
}

/// Fills `arena` with `runs`, each at its place, on `readers` threads.
///
/// `progress` is called on the calling thread with bytes read so far.
///
/// # Errors
/// The first that a reader meets; the others then stop.
pub(crate) fn load(
    files: &Files,
    runs: &[Run],
    arena: &mut Buffer,
    readers: usize,
    progress: &mut dyn FnMut(Bytes),
) -> Result<(), StreamError> {
    let work = Mutex::new(pieces(runs, arena).into_iter());
    let stop = AtomicBool::new(false);
    let (report, reports) = mpsc::channel();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for reader in 0..readers.max(1) {
            let (work, stop, report) = (&work, &stop, report.clone());
            let spawned = std::thread::Builder::new()
                .name(format!("load {reader}"))
                .spawn_scoped(scope, move || read_pieces(files, work, stop, &report));
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(StreamError::Thread { source });
                }
            }
        }
        drop(report);
        let mut done = Bytes::ZERO;
        let read = reports.into_iter().try_for_each(|read| {
            done = done.saturating_add(read?);
            progress(done);
            Ok(())
        });
        // Every thread is waited for: one that panicked, and is not, panics here.
        let panicked = threads.into_iter().filter_map(|thread| thread.join().err()).count();
        match panicked {
            0 => read,
            _ => Err(StreamError::Thread { source: io::Error::other(PANICKED) }),
        }
    })
}

fn read_pieces<'a>(
    files: &Files,
    work: &Mutex<impl Iterator<Item = Piece<'a>>>,
    stop: &AtomicBool,
    report: &mpsc::Sender<Result<Bytes, StreamError>>,
) {
    let next = || work.lock().ok().and_then(|mut work| work.next());
    while !stop.load(Ordering::Relaxed) {
        let Some(piece) = next() else { return };
        let read = files.fill(piece.span, piece.to).map(|()| Bytes::of_len(piece.to.len()));
        if read.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        // The receiver is gone only after an error, which it has told already.
        let _ = report.send(read);
    }
}

/// Cuts the arena at the runs' places, and long runs into pieces.
fn pieces<'a>(runs: &[Run], arena: &'a mut Buffer) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    let mut rest: &mut [u8] = arena;
    for run in runs {
        let stored = run.stored();
        let len = stored.len.to_usize().unwrap_or(usize::MAX).min(rest.len());
        let (memory, after) = std::mem::take(&mut rest).split_at_mut(len);
        rest = after;
        for (index, to) in memory.chunks_mut(PIECE).enumerate() {
            let offset = stored.offset.saturating_add(Bytes::of_len(index * PIECE));
            let end = offset.saturating_add(Bytes::of_len(to.len())).min(run.span.end());
            let span = FileSpan { file: run.span.file, offset, len: end.left_after(offset) };
            pieces.push(Piece { span, to });
        }
    }
    pieces
}
