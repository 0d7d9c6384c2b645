//! One exact read made of whatever the system answers.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use overflowml_plan::ALIGNMENT;
use overflowml_types::{Bytes, FileId, FileSpan, ModelFile};
use proptest::prelude::*;

use crate::StreamError;
use crate::files::{Files, Fingerprint, Source};

const SECTOR: usize = ALIGNMENT as usize;

/// What the system answers to one read.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// As much as there is.
    Whole,
    /// At most so much.
    Only(usize),
    Fails(ErrorKind),
}

/// A file in memory that answers by script; after the script's end, everything is read.
struct Scripted {
    data: Vec<u8>,
    alignment: usize,
    /// Its size from when it is first asked again after it was opened.
    fingerprints: Mutex<Vec<Fingerprint>>,
    script: Mutex<Box<dyn Iterator<Item = Answer> + Send>>,
    /// Offsets and lengths of the reads that were tried.
    asked: Arc<Mutex<Vec<(u64, usize)>>>,
}

impl Source for Scripted {
    fn read_at(&self, _: usize, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.asked.lock().unwrap().push((offset, buf.len()));
        let rest = &self.data[self.data.len().min(offset as usize)..];
        let most = match self.script.lock().unwrap().next().unwrap_or(Answer::Whole) {
            Answer::Whole => usize::MAX,
            Answer::Only(most) => most,
            Answer::Fails(kind) => return Err(kind.into()),
        };
        let len = rest.len().min(buf.len()).min(most);
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn alignment(&self) -> usize {
        self.alignment
    }

    fn fingerprint(&self, _: usize) -> io::Result<Fingerprint> {
        let mut left = self.fingerprints.lock().unwrap();
        let now = if left.len() > 1 { left.remove(0) } else { left[0] };
        Ok(now)
    }
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn seen(size: usize, modified: i64) -> Fingerprint {
    Fingerprint { size: size as u64, modified: (modified, 0) }
}

struct Setup {
    files: Files,
    asked: Arc<Mutex<Vec<(u64, usize)>>>,
}

/// A file that was `known` bytes long when it was opened and is `data` now.
fn setup(
    known: usize,
    data: Vec<u8>,
    alignment: usize,
    script: impl Iterator<Item = Answer> + Send + 'static,
) -> Setup {
    let now = seen(data.len(), if data.len() == known { 0 } else { 1 });
    let asked = Arc::new(Mutex::new(Vec::new()));
    let source = Scripted {
        data,
        alignment,
        fingerprints: Mutex::new(vec![seen(known, 0), now]),
        script: Mutex::new(Box::new(script)),
        asked: Arc::clone(&asked),
    };
    let file = ModelFile { path: PathBuf::from("the-model"), size: Bytes::new(known as u64) };
    Setup { files: Files::new(&[file], Box::new(source)).unwrap(), asked }
}

fn span(offset: u64, len: u64) -> FileSpan {
    FileSpan { file: FileId(0), offset: Bytes::new(offset), len: Bytes::new(len) }
}

/// Reads `span` with its surroundings, and returns the span's bytes.
fn fill(files: &Files, span: FileSpan) -> Result<Vec<u8>, StreamError> {
    let start = span.offset.align_down(ALIGNMENT);
    let stored = span.end().align_up(ALIGNMENT).left_after(start);
    let mut buffer = vec![0xee; stored.to_usize().unwrap()];
    files.fill(span, &mut buffer)?;
    let lead = span.offset.left_after(start).to_usize().unwrap();
    Ok(buffer[lead..lead + span.len.to_usize().unwrap()].to_vec())
}

#[test]
fn a_direct_read_that_stops_between_sectors_goes_on_at_a_sector() {
    let whole = data(100_000);
    let short = std::iter::repeat_n(Answer::Only(SECTOR + 1000), 50);
    let it = setup(whole.len(), whole.clone(), SECTOR, short);
    assert!(fill(&it.files, span(5000, 60_000)).unwrap() == whole[5000..65_000]);
    let asked = it.asked.lock().unwrap();
    assert!(asked.len() > 10);
    assert!(asked.iter().all(|(offset, len)| offset % ALIGNMENT == 0 && len % SECTOR == 0));
}

#[test]
fn a_read_that_ends_with_the_file_is_whole() {
    let whole = data(9_999);
    for alignment in [1, SECTOR] {
        let it = setup(whole.len(), whole.clone(), alignment, std::iter::empty());
        assert!(fill(&it.files, span(8_500, 1_499)).unwrap() == whole[8_500..]);
        assert_eq!(it.asked.lock().unwrap().len(), 1);
    }
}

#[test]
fn a_disk_that_never_brings_a_whole_sector_is_failing() {
    let whole = data(50_000);
    let dribble = std::iter::repeat(Answer::Only(100));
    let it = setup(whole.len(), whole, SECTOR, dribble);
    let error = fill(&it.files, span(9_000, 20_000)).unwrap_err();
    let StreamError::Read { path, offset, len, source } = &error else { panic!("{error}") };
    assert_eq!((path.to_str().unwrap(), offset.get()), ("the-model", 8192));
    assert_eq!((len.get(), source.kind()), (29_000 - 8192, ErrorKind::TimedOut));
    assert!(it.asked.lock().unwrap().len() < 40);
}

#[test]
fn a_disk_that_stutters_and_recovers_is_read() {
    let whole = data(200_000);
    let stutter = (0..400).map(|number| match number % 10 {
        9 => Answer::Only(SECTOR),
        number => Answer::Only(number * 100),
    });
    // The first answer of each ten is nothing at all, which would be the end of the file.
    let stutter = stutter.filter(|answer| !matches!(answer, Answer::Only(0)));
    let it = setup(whole.len(), whole.clone(), SECTOR, stutter);
    assert!(fill(&it.files, span(100, 150_000)).unwrap() == whole[100..150_100]);
}

#[test]
fn interruptions_are_not_errors_however_many() {
    let whole = data(20_000);
    let signals = std::iter::repeat_n(Answer::Fails(ErrorKind::Interrupted), 10_000);
    let it = setup(whole.len(), whole.clone(), SECTOR, signals);
    assert!(fill(&it.files, span(1, 15_000)).unwrap() == whole[1..15_001]);
}

#[test]
fn a_failure_is_told_with_file_and_offset_after_what_had_been_read() {
    let script = [Answer::Only(3 * SECTOR), Answer::Fails(ErrorKind::PermissionDenied)];
    let it = setup(90_000, data(90_000), 1, script.into_iter());
    let error = fill(&it.files, span(4096, 80_000)).unwrap_err();
    assert_eq!(error.code(), "stream.read");
    let text = error.to_string();
    assert!(text.contains("the-model") && text.contains(&(4 * SECTOR).to_string()), "{text}");
}

#[test]
fn a_file_that_was_cut_is_told_with_where_it_ends_now() {
    // Cut before, inside and at the end of a sector, before and inside the span.
    for (now, alignment) in [0, 5_000, 8_192, 10_000, 16_384, 20_001]
        .into_iter()
        .flat_map(|now| [(now, 1), (now, SECTOR)])
    {
        let it = setup(40_000, data(now), alignment, std::iter::empty());
        let error = fill(&it.files, span(9_000, 20_000)).unwrap_err();
        let StreamError::Ended { path, end, needed } = &error else {
            panic!("{now}, {alignment}: {error}")
        };
        assert_eq!((path.to_str().unwrap(), needed.get()), ("the-model", 29_000));
        assert_eq!(end.get(), now as u64);
    }
}

#[test]
fn bytes_of_a_file_that_changed_are_not_given_out() {
    let script = std::iter::empty();
    let it = setup(40_000, data(40_001), SECTOR, script);
    let error = fill(&it.files, span(9_000, 20_000)).unwrap_err();
    let StreamError::Changed { path, offset } = &error else { panic!("{error}") };
    assert_eq!((path.to_str().unwrap(), offset.get()), ("the-model", 9_000));
}

fn any_answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        Just(Answer::Whole),
        (1_usize..3 * SECTOR).prop_map(Answer::Only),
        (SECTOR..9 * SECTOR).prop_map(Answer::Only),
        Just(Answer::Fails(ErrorKind::Interrupted)),
        Just(Answer::Fails(ErrorKind::Other)),
    ]
}

proptest! {
    #[test]
    fn a_read_brings_the_files_bytes_or_an_error(
        size in 1_usize..90_000,
        place in (0.0..1.0, 0.0..1.0),
        direct in any::<bool>(),
        script in prop::collection::vec(any_answer(), 0..40),
    ) {
        let whole = data(size);
        let offset = (place.0 * size as f64) as u64;
        let len = (place.1 * (size as u64 - offset) as f64) as u64;
        let alignment = if direct { SECTOR } else { 1 };
        let fails = script.iter().any(|answer| matches!(answer, Answer::Fails(ErrorKind::Other)));
        let it = setup(size, whole.clone(), alignment, script.into_iter());
        match fill(&it.files, span(offset, len)) {
            Ok(read) => prop_assert!(read == whole[offset as usize..(offset + len) as usize]),
            Err(error) => prop_assert!(
                fails || error.to_string().contains("timed out"), "{}", error
            ),
        }
    }
}
