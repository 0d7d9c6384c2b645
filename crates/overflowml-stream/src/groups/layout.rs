//! Where a group's spans lie in its memory: neighbours are read and kept as one run.

use overflowml_plan::{ALIGNMENT, stored};
use overflowml_types::{Bytes, FileSpan, ModelFile};

use crate::error::StreamError;

/// Size of one read: large enough for any disk's full speed, small enough to share the work.
const PIECE: u64 = 4 << 20;

/// A group in memory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    runs: Vec<Run>,
    places: Vec<Place>,
    size: Bytes,
    weights: Bytes,
}

/// Where one span of a group is in its slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From the start of the slab.
    pub offset: Bytes,
    /// How many bytes.
    pub len: Bytes,
}

/// File bytes that one stretch of memory holds, sector by sector.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Run {
    /// From the first wanted byte to the last.
    span: FileSpan,
    /// Where the aligned surroundings of `span` begin in memory, a multiple of [`ALIGNMENT`].
    at: Bytes,
}

/// One read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Piece {
    /// What is wanted; it begins where the read begins, but for the first piece of a run.
    pub(crate) span: FileSpan,
    /// Where its aligned surroundings go.
    pub(crate) at: Bytes,
    /// How long they are.
    pub(crate) room: Bytes,
}

impl Layout {
    /// Lays `spans` out; fails if one is not inside its file.
    pub(crate) fn of(spans: &[FileSpan], files: &[ModelFile]) -> Result<Self, StreamError> {
        spans.iter().try_for_each(|span| check(*span, files))?;
        let mut by_place: Vec<usize> = (0..spans.len()).collect();
        by_place.sort_by_key(|&index| (spans[index].file, spans[index].offset));
        let nowhere = Place { offset: Bytes::ZERO, len: Bytes::ZERO };
        let mut layout = Self {
            runs: Vec::new(),
            places: vec![nowhere; spans.len()],
            size: Bytes::ZERO,
            weights: Bytes::ZERO,
        };
        for index in by_place {
            if !spans[index].len.is_zero() {
                layout.places[index] = layout.add(spans[index]);
            }
        }
        layout.weights = layout.runs.iter().map(|run| run.span.len).sum();
        Ok(layout)
    }

    /// Adds the next span in the files' order, to the last run if they share a sector or meet.
    fn add(&mut self, span: FileSpan) -> Place {
        if self.runs.last().is_none_or(|last| !meet(last.span, span)) {
            self.runs.push(Run { span, at: self.size });
        }
        let last = self.runs.len() - 1;
        let run = &mut self.runs[last];
        let end = run.span.end().max(span.end());
        run.span.len = end.left_after(run.span.offset);
        let stored = stored(run.span);
        self.size = run.at.saturating_add(stored.len);
        let from_start = span.offset.left_after(stored.offset);
        Place { offset: run.at.saturating_add(from_start), len: span.len }
    }

    /// Memory that the group takes, a multiple of [`ALIGNMENT`]: what is read of the files.
    pub(crate) fn size(&self) -> Bytes {
        self.size
    }

    /// From the first wanted byte of every run to its last.
    pub(crate) fn weights(&self) -> Bytes {
        self.weights
    }

    /// Where each span is, in the order in which they were given.
    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    /// The reads that fill the memory.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        self.runs.iter().flat_map(|run| run.pieces())
    }
}

impl Run {
    fn pieces(self) -> impl Iterator<Item = Piece> {
        let stored = stored(self.span);
        (0..stored.len.get()).step_by(PIECE as usize).map(move |from| {
            let offset = stored.offset.saturating_add(Bytes::new(from));
            let room = Bytes::new(PIECE.min(stored.len.get() - from));
            let start = offset.max(self.span.offset);
            let end = offset.saturating_add(room).min(self.span.end());
            let span = FileSpan { offset: start, len: end.left_after(start), ..self.span };
            Piece { span, at: self.at.saturating_add(Bytes::new(from)), room }
        })
    }
}

/// Whether a span that begins after another one begins continues its stretch of sectors.
fn meet(before: FileSpan, span: FileSpan) -> bool {
    before.file == span.file
        && span.offset.align_down(ALIGNMENT) <= before.end().align_up(ALIGNMENT)
}

fn check(span: FileSpan, files: &[ModelFile]) -> Result<(), StreamError> {
    let Some(file) = files.get(span.file.0 as usize) else {
        let what = format!("a span is in file {} of {}", span.file.0, files.len());
        return Err(StreamError::Layout { what });
    };
    match span.offset.checked_add(span.len) {
        Some(end) if end <= file.size => Ok(()),
        _ => {
            Err(StreamError::Ended { path: file.path.clone(), end: file.size, needed: span.end() })
        }
    }
}

#[cfg(test)]
mod tests {
    use overflowml_types::FileId;
    use proptest::prelude::*;

    use super::*;

    fn span(file: u32, offset: u64, len: u64) -> FileSpan {
        FileSpan { file: FileId(file), offset: Bytes::new(offset), len: Bytes::new(len) }
    }

    fn files() -> Vec<ModelFile> {
        let file = |name: &str| ModelFile { path: name.into(), size: Bytes::mib(64) };
        vec![file("a"), file("b")]
    }

    fn layout(spans: &[FileSpan]) -> Layout {
        Layout::of(spans, &files()).unwrap()
    }

    #[test]
    fn neighbours_are_one_run_whatever_their_order() {
        let layout = layout(&[span(0, 5000, 3000), span(0, 100, 4900), span(1, 0, 10)]);
        assert_eq!(layout.runs.len(), 2);
        assert_eq!(layout.size(), Bytes::new(8192 + 4096));
        let offsets: Vec<u64> = layout.places().iter().map(|place| place.offset.get()).collect();
        assert_eq!(offsets, [5000, 100, 8192]);
    }

    #[test]
    fn a_gap_of_whole_sectors_is_not_read() {
        let layout = layout(&[span(0, 0, 10), span(0, 3 * 4096, 10)]);
        assert_eq!(layout.size(), Bytes::new(2 * 4096));
    }

    #[test]
    fn a_span_outside_its_file_is_refused() {
        for wrong in [span(0, 64 << 20, 1), span(0, u64::MAX, 2), span(7, 0, 1)] {
            assert!(Layout::of(&[wrong], &files()).is_err());
        }
        assert_eq!(layout(&[span(0, 64 << 20, 0)]).size(), Bytes::ZERO);
    }

    fn any_spans() -> impl Strategy<Value = Vec<FileSpan>> {
        let one = (0..2_u32, 0..(40_u64 << 20), 0..(9_u64 << 20));
        prop::collection::vec(one.prop_map(|(file, offset, len)| span(file, offset, len)), 0..12)
    }

    proptest! {
        #[test]
        fn every_span_is_where_its_place_says_and_runs_do_not_overlap(spans in any_spans()) {
            let layout = layout(&spans);
            let mut end = Bytes::ZERO;
            for piece in layout.pieces() {
                prop_assert_eq!(piece.at, end);
                end = end.saturating_add(piece.room);
                prop_assert_eq!(piece.room, stored(piece.span).len);
            }
            prop_assert_eq!(end, layout.size());
            for (span, place) in spans.iter().zip(layout.places()) {
                prop_assert_eq!(place.len, span.len);
                let first = layout.runs.iter().find(|run| {
                    run.span.file == span.file && run.span.offset <= span.offset && run.span.end() >= span.end()
                });
                if let (Some(run), false) = (first, span.len.is_zero()) {
                    let lead = span.offset.left_after(stored(run.span).offset);
                    prop_assert_eq!(place.offset, run.at.saturating_add(lead));
                } else {
                    prop_assert!(span.len.is_zero());
                }
            }
        }
    }
}
