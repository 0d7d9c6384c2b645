//! Results as they come, so that a run that is killed can be continued; in order once all are there.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::BatchError;
use super::rows::Outcome;

/// Added to the results' name while they are incomplete.
const SUFFIX: &str = "partial";

/// What results depend on: a run is continued only with the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Of the model's configuration and the sizes of its files.
    pub model: String,
    /// Of the prompts.
    pub prompts: String,
    /// All settings that change results, as text.
    pub settings: String,
}

/// The results of a batch: `FILE.partial` in the order in which they come, then `FILE` in the order of the rows.
#[derive(Debug)]
pub struct Journal {
    out: PathBuf,
    partial: PathBuf,
    file: File,
    /// Where each finished row's line is, and whether it has a result.
    done: HashMap<usize, (u64, bool)>,
    end: u64,
}

impl Journal {
    /// Begins results at `out`, or continues those that an unfinished run of the same `provenance` has left.
    ///
    /// # Errors
    /// If `out` exists, or an unfinished run of another provenance is in the way, unless `overwrite` says to delete
    /// both; if files cannot be read or written.
    pub fn open(out: &Path, provenance: &Provenance, overwrite: bool) -> Result<Self, BatchError> {
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".");
        name.push(SUFFIX);
        let partial = out.with_file_name(name);
        if overwrite {
            remove(&partial)?;
        } else if out.exists() {
            return Err(BatchError::Exists { path: out.to_owned() });
        }
        let failed = |source| BatchError::Write { path: partial.clone(), source };
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&partial)
            .map_err(failed)?;
        let mut journal = Self {
            out: out.to_owned(),
            partial: partial.clone(),
            file,
            done: HashMap::new(),
            end: 0,
        };
        if journal.file.metadata().map_err(failed)?.len() == 0 {
            journal.append(provenance)?;
        } else {
            journal.resume(provenance)?;
        }
        Ok(journal)
    }

    /// Whether row `index` is finished.
    pub fn has(&self, index: usize) -> bool {
        self.done.contains_key(&index)
    }

    /// How many rows are finished.
    pub fn finished(&self) -> usize {
        self.done.len()
    }

    /// How many of them have no result.
    pub fn failed(&self) -> usize {
        self.done.values().filter(|(_, result)| !result).count()
    }

    /// Keeps what became of a row.
    ///
    /// # Errors
    /// If it cannot be written, to a full disk for example. What was kept before stays.
    pub fn keep(&mut self, outcome: &Outcome) -> Result<(), BatchError> {
        let at = self.append(outcome)?;
        self.done.insert(outcome.index, (at, outcome.error.is_none()));
        Ok(())
    }

    /// Writes the results of `rows` rows in their order, and takes the unfinished run's file away.
    ///
    /// # Errors
    /// If a file cannot be read or written; nothing is lost then.
    pub fn finish(mut self, rows: usize) -> Result<(), BatchError> {
        let failed = |source| BatchError::Write { path: self.out.clone(), source };
        let folder = self.out.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut name = self.out.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let ordered = folder.unwrap_or(Path::new(".")).join(name);
        let mut to = BufWriter::new(File::create(&ordered).map_err(failed)?);
        let mut from = BufReader::new(&mut self.file);
        let mut line = Vec::new();
        for index in 0..rows {
            let Some(&(at, _)) = self.done.get(&index) else { continue };
            line.clear();
            from.seek(SeekFrom::Start(at)).map_err(failed)?;
            from.read_until(b'\n', &mut line).map_err(failed)?;
            to.write_all(&line).map_err(failed)?;
        }
        let to = to.into_inner().map_err(|error| failed(error.into_error()))?;
        to.sync_all().map_err(failed)?;
        fs::rename(&ordered, &self.out).map_err(failed)?;
        remove(&self.partial)
    }

    /// Adds a line; where it begins.
    fn append(&mut self, value: &impl Serialize) -> Result<u64, BatchError> {
        let failed = |source| BatchError::Write { path: self.partial.clone(), source };
        let mut line = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        if let Err(source) = self.file.write_all(&line) {
            // Half a line, if anything: the next run drops it.
            let _ = self.file.set_len(self.end);
            return Err(failed(source));
        }
        let at = self.end;
        self.end += line.len() as u64;
        Ok(at)
    }

    /// Takes over the lines that are complete and drops the last if it is not.
    fn resume(&mut self, provenance: &Provenance) -> Result<(), BatchError> {
        let path = self.partial.clone();
        let failed = |source| BatchError::Write { path: path.clone(), source };
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut reader = BufReader::new((&self.file).take(u64::MAX));
        let (mut line, mut number, mut end) = (Vec::new(), 0, 0);
        let mut done = HashMap::new();
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).map_err(failed)?;
            if !line.ends_with(b"\n") {
                break;
            }
            number += 1;
            let damaged = || BatchError::Damaged { path: path.clone(), line: number };
            if number == 1 {
                let found: Provenance = serde_json::from_slice(&line).map_err(|_| damaged())?;
                compare(&path, &found, provenance)?;
            } else {
                let found: Outcome = serde_json::from_slice(&line).map_err(|_| damaged())?;
                done.insert(found.index, (end, found.error.is_none()));
            }
            end += length as u64;
        }
        self.file.set_len(end).map_err(failed)?;
        (self.done, self.end) = (done, end);
        if number == 0 {
            // It was stopped before the first line was complete.
            self.append(provenance)?;
        }
        Ok(())
    }
}

fn compare(path: &Path, found: &Provenance, wanted: &Provenance) -> Result<(), BatchError> {
    let parts = [
        ("another model", &found.model, &wanted.model),
        ("other prompts", &found.prompts, &wanted.prompts),
        ("other settings", &found.settings, &wanted.settings),
    ];
    match parts.into_iter().find(|(_, found, wanted)| found != wanted) {
        Some((difference, ..)) => Err(BatchError::OtherRun { path: path.to_owned(), difference }),
        None => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), BatchError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(BatchError::Write { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::RowError;

    fn provenance(settings: &str) -> Provenance {
        Provenance { model: "m".to_owned(), prompts: "p".to_owned(), settings: settings.to_owned() }
    }

    fn outcome(index: usize) -> Outcome {
        Outcome { index, text: Some(format!("text {index}")), ..Outcome::default() }
    }

    fn indexes(path: &Path) -> Vec<usize> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str::<Outcome>(line).unwrap().index).collect()
    }

    #[test]
    fn results_come_in_any_order_and_end_in_the_rows_order() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.jsonl");
        let mut journal = Journal::open(&out, &provenance("s"), false).unwrap();
        for index in [2, 0, 3, 1] {
            journal.keep(&outcome(index)).unwrap();
        }
        journal.finish(4).unwrap();
        assert_eq!(indexes(&out), [0, 1, 2, 3]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let again = Journal::open(&out, &provenance("s"), false);
        assert!(matches!(again, Err(BatchError::Exists { .. })));
    }

    #[test]
    fn a_run_that_was_killed_at_any_byte_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.jsonl");
        let partial = folder.path().join("out.jsonl.partial");
        let mut journal = Journal::open(&out, &provenance("s"), false).unwrap();
        let error = RowError { code: "x".to_owned(), message: "y".to_owned() };
        journal.keep(&outcome(1)).unwrap();
        journal.keep(&Outcome::failed(0, None, error)).unwrap();
        drop(journal);
        let whole = fs::read(&partial).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&partial, &whole[..cut]).unwrap();
            let mut journal = Journal::open(&out, &provenance("s"), false).unwrap();
            let lines = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(journal.finished(), lines.saturating_sub(1), "after {cut} bytes");
            assert_eq!(journal.failed(), usize::from(lines == 3));
            for index in (0..3).filter(|&index| !journal.has(index)).collect::<Vec<_>>() {
                journal.keep(&outcome(index)).unwrap();
            }
            journal.finish(3).unwrap();
            assert_eq!(indexes(&out), [0, 1, 2]);
            fs::remove_file(&out).unwrap();
        }
    }

    #[test]
    fn another_runs_remains_are_not_taken_for_ours() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.jsonl");
        Journal::open(&out, &provenance("s"), false).unwrap().keep(&outcome(0)).unwrap();
        match Journal::open(&out, &provenance("t"), false) {
            Err(BatchError::OtherRun { difference, .. }) => {
                assert_eq!(difference, "other settings")
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(Journal::open(&out, &provenance("t"), true).unwrap().finished(), 0);
        fs::write(folder.path().join("out.jsonl.partial"), "garbage\n").unwrap();
        let damaged = Journal::open(&out, &provenance("s"), false);
        assert!(matches!(damaged, Err(BatchError::Damaged { line: 1, .. })));
    }
}
