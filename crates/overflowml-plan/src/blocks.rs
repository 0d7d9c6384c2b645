//! Cuts matrices into blocks and lays out those that stay in memory.

use overflowml_types::{Access, Bytes, FileSpan, PassWeight};

use crate::plan::{Block, Home, Run};

/// Direct reads start and end at multiples of this, in the file and in memory.
pub const ALIGNMENT: u64 = 4096;

/// Rows per block are a multiple of this where a block has that many: what the kernels work on.
const ROW_STEP: u64 = 8;

/// The run of file bytes that a direct read of `span` takes: whole aligned sectors.
pub fn stored(span: FileSpan) -> FileSpan {
    let offset = span.offset.align_down(ALIGNMENT);
    let len = span.end().align_up(ALIGNMENT).left_after(offset);
    FileSpan { offset, len, ..span }
}

/// Cuts every matrix of a pass into blocks of about `target`, all at home on disk.
///
/// A row is never cut, so a block is at least one row. Only weights with one of these kinds of access
/// become blocks.
pub(crate) fn cut(weights: &[PassWeight], target: Bytes, kinds: &[Access]) -> Vec<Block> {
    let wanted = |access| kinds.contains(&access);
    let matrices = weights.iter().enumerate().filter(|(_, weight)| wanted(weight.access));
    matrices.flat_map(|(index, weight)| cut_one(index, weight, target)).collect()
}

fn cut_one(index: usize, weight: &PassWeight, target: Bytes) -> impl Iterator<Item = Block> {
    let rows = weight.rows();
    let span = weight.tensor.span;
    let row = Bytes::new(span.len.get().checked_div(rows).unwrap_or(0));
    let step = rows_per_block(rows, row, target);
    let mut first_row = 0;
    std::iter::from_fn(move || {
        (first_row < rows).then(|| {
            let count = step.min(rows - first_row);
            let offset = span.offset.saturating_add(row.saturating_mul(first_row));
            let part = FileSpan { file: span.file, offset, len: row.saturating_mul(count) };
            let block =
                Block { weight: index, first_row, rows: count, span: part, home: Home::Disk };
            first_row += count;
            block
        })
    })
}

/// How many rows a block of about `target` has, so that all blocks of a matrix are nearly equal.
fn rows_per_block(rows: u64, row: Bytes, target: Bytes) -> u64 {
    let most = target.get().checked_div(row.get()).unwrap_or(rows).clamp(1, rows.max(1));
    let blocks = rows.div_ceil(most).max(1);
    let even = rows.div_ceil(blocks).max(1);
    let stepped = even.next_multiple_of(ROW_STEP);
    if stepped <= most { stepped } else { even }
}

/// The blocks that stay, neighbours of one matrix joined, with their places in the arena.
pub(crate) fn runs(blocks: &[Block]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for block in blocks.iter().filter(|block| block.home == Home::Memory) {
        match runs.last_mut() {
            Some(run) if run.is_followed_by(block) => {
                run.rows += block.rows;
                run.span.len = run.span.len.saturating_add(block.span.len);
            }
            _ => runs.push(Run {
                weight: block.weight,
                first_row: block.first_row,
                rows: block.rows,
                span: block.span,
                at: Bytes::ZERO,
            }),
        }
    }
    let mut at = Bytes::ZERO;
    for run in &mut runs {
        run.at = at;
        at = at.saturating_add(run.stored().len);
    }
    runs
}

/// Arena bytes that the blocks that stay take; the sum over [`runs`], without making them.
pub(crate) fn resident_bytes(blocks: &[Block]) -> Bytes {
    let mut total = Bytes::ZERO;
    let mut open: Option<(usize, FileSpan)> = None;
    for block in blocks.iter().filter(|block| block.home == Home::Memory) {
        open = match open {
            Some((weight, span)) if weight == block.weight && span.end() == block.span.offset => {
                Some((weight, FileSpan { len: span.len.saturating_add(block.span.len), ..span }))
            }
            other => {
                total = total.saturating_add(closed(other));
                Some((block.weight, block.span))
            }
        };
    }
    total.saturating_add(closed(open))
}

fn closed(run: Option<(usize, FileSpan)>) -> Bytes {
    run.map_or(Bytes::ZERO, |(_, span)| stored(span).len)
}

/// Bytes read per pass: the blocks at home on disk, with the alignment of direct reads.
pub(crate) fn streamed_bytes(blocks: &[Block]) -> Bytes {
    let streamed = blocks.iter().filter(|block| block.home == Home::Disk);
    streamed.map(|block| stored(block.span).len).sum()
}

/// Keeps blocks so that the kept share of any stretch of the pass is `share`: then reading and
/// computing overlap everywhere, and a few slots suffice.
pub(crate) fn spread(blocks: &mut [Block], share: f64) {
    let (mut passed, mut kept) = (0.0, 0.0);
    for block in blocks {
        let len = block.span.len.as_f64();
        passed += len;
        block.home = if kept + len / 2.0 <= share * passed { Home::Memory } else { Home::Disk };
        if block.home == Home::Memory {
            kept += len;
        }
    }
}

/// Keeps as much as fits `room`, evenly spread.
pub(crate) fn keep_within(blocks: &mut [Block], room: Bytes) {
    const STEPS: u32 = 30;
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..STEPS {
        let middle = f64::midpoint(low, high);
        spread(blocks, middle);
        if resident_bytes(blocks) <= room { low = middle } else { high = middle }
    }
    spread(blocks, low);
    if resident_bytes(blocks) > room {
        // A share of zero can still keep a block of zero bytes: no bytes, but its alignment.
        blocks.iter_mut().for_each(|block| block.home = Home::Disk);
    }
    fill(blocks, room);
}

/// Keeps further blocks, first to last, while they fit: what rounding in [`spread`] left over.
fn fill(blocks: &mut [Block], room: Bytes) {
    let mut left = room.left_after(resident_bytes(blocks));
    for block in blocks.iter_mut().filter(|block| block.home == Home::Disk) {
        let need = stored(block.span).len;
        if need <= left {
            block.home = Home::Memory;
            left = left.left_after(need);
        }
    }
}
