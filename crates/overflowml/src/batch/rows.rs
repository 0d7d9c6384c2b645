//! Prompts in a JSON Lines file: one object per line, each a prompt with what it may change of the settings.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::error::BatchError;
use super::{BatchOutput, StoppedBy};

/// One line of the file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The text to continue.
    pub prompt: String,
    /// Anything: it is repeated with the result.
    pub id: Option<Value>,
    /// New tokens at most.
    pub max_new_tokens: Option<u32>,
    /// As `--temperature`.
    pub temperature: Option<f32>,
    /// As `--seed`.
    pub seed: Option<u64>,
}

/// Why one row has no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowError {
    /// Stable name.
    pub code: String,
    /// In words.
    pub message: String,
}

/// What became of a row: a line of the results.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which row, counted from 0.
    pub index: usize,
    /// As it was given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<Value>,
    /// The new text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub text: Option<String>,
    /// The new tokens.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tokens: Vec<u32>,
    /// How many tokens the prompt had.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub prompt_tokens: Option<usize>,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stopped_by: Option<StoppedBy>,
    /// Why there is no result.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<RowError>,
}

impl Outcome {
    /// A result; `text` is what its tokens decode to.
    pub fn done(index: usize, id: Option<Value>, text: String, output: BatchOutput) -> Self {
        Self {
            index,
            id,
            text: Some(text),
            tokens: output.tokens,
            prompt_tokens: Some(output.prompt_tokens),
            stopped_by: Some(output.stopped_by),
            error: None,
        }
    }

    /// No result.
    pub fn failed(index: usize, id: Option<Value>, error: RowError) -> Self {
        Self { index, id, error: Some(error), ..Self::default() }
    }
}

/// The rows of a file. The file is read twice, a line at a time, so that its size does not matter.
#[derive(Debug)]
pub struct Rows {
    path: PathBuf,
    reader: BufReader<File>,
    /// Where each row is: offset and length.
    lines: Vec<(u64, u32)>,
    fingerprint: String,
}

impl Rows {
    /// Finds the rows of the file; blank lines are none. `look` is shown each of them.
    ///
    /// # Errors
    /// If the file cannot be read. A row that is not understood is shown to `look` and is no error here.
    pub fn open(
        path: &Path,
        look: &mut dyn FnMut(Result<Row, RowError>),
    ) -> Result<Self, BatchError> {
        let failed = |source| BatchError::Read { path: path.to_owned(), source };
        let mut reader = BufReader::new(File::open(path).map_err(failed)?);
        let (mut lines, mut digest) = (Vec::new(), Sha256::new());
        let (mut offset, mut line) = (0, Vec::new());
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).map_err(failed)?;
            if length == 0 {
                break;
            }
            digest.update(&line);
            if !line.trim_ascii().is_empty() {
                // A line beyond 4 GiB is cut, and is then not understood.
                lines.push((offset, u32::try_from(length).unwrap_or(u32::MAX)));
                look(parse(&line));
            }
            offset += length as u64;
        }
        let digest = digest.finalize();
        let fingerprint = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { path: path.to_owned(), reader, lines, fingerprint })
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The SHA-256 of the file's content.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Reads row `index`.
    ///
    /// # Errors
    /// The outer one if the file cannot be read any more, the inner one if the row is not understood.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn read(&mut self, index: usize) -> Result<Result<Row, RowError>, BatchError> {
        let (offset, length) = self.lines[index];
        let mut line = vec![0; length as usize];
        let found = self.reader.seek(SeekFrom::Start(offset));
        match found.and_then(|_| self.reader.read_exact(&mut line)) {
            Ok(()) => Ok(parse(&line)),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(BatchError::Changed { path: self.path.clone() })
            }
            Err(source) => Err(BatchError::Read { path: self.path.clone(), source }),
        }
    }
}

fn parse(line: &[u8]) -> Result<Row, RowError> {
    serde_json::from_slice(line).map_err(|error| RowError {
        code: "batch.row".to_owned(),
        message: format!("this is not a row such as {{\"prompt\": \"Once upon a time\"}}: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_and_bad_ones_do_not_hide_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let text =
            "{\"prompt\":\"a\",\"id\":7}\n\n{\"prompt\":3}\n  \n{\"prompt\":\"b\",\"seed\":2}";
        std::fs::write(&path, text).unwrap();
        let mut seen = Vec::new();
        let mut rows = Rows::open(&path, &mut |row| seen.push(row)).unwrap();
        assert_eq!(rows.len(), 3);
        let good = |row: &Result<Row, RowError>| row.as_ref().map(|row| row.prompt.clone()).ok();
        let prompts: Vec<_> = seen.iter().map(good).collect();
        assert_eq!(prompts, [Some("a".to_owned()), None, Some("b".to_owned())]);
        for index in [2, 0, 1] {
            assert_eq!(rows.read(index).unwrap(), seen[index]);
        }
        assert_eq!(rows.read(0).unwrap().unwrap().id, Some(Value::from(7)));
    }

    #[test]
    fn a_misspelled_setting_is_told_and_not_ignored() {
        let error = parse(br#"{"prompt":"a","max_tokens":3}"#).unwrap_err();
        assert!(error.message.contains("max_tokens"), "{}", error.message);
        assert!(parse(b"\xff\xfe").is_err());
    }

    #[test]
    fn a_file_that_shrinks_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let text = format!("{{\"prompt\":\"{}\"}}\n", "x".repeat(20_000)).repeat(2);
        std::fs::write(&path, text).unwrap();
        let mut rows = Rows::open(&path, &mut |_| {}).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(matches!(rows.read(1), Err(BatchError::Changed { .. })));
    }
}
