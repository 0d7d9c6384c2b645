//! A GGUF model: one file, or the parts of a split one.

use std::collections::{BTreeMap, HashSet};

use overflowml_types::{Bytes, FileId, FileSpan, ModelFile};

use super::{GgmlType, Gguf, GgufError, GgufValue, parse_gguf};
use crate::dir::read_up_to;
use crate::{FileProblem, FormatError, ModelDir, limits};

/// An opened GGUF model: its metadata, and where every tensor lies.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufModel {
    /// The files that hold tensors, in order; [`FileId`] indexes them.
    pub files: Vec<ModelFile>,
    /// Facts about the model; of a split one, the first part's.
    pub metadata: BTreeMap<String, GgufValue>,
    /// In the order of the files' lists.
    pub tensors: Vec<GgufModelTensor>,
}

/// One tensor of a [`GgufModel`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufModelTensor {
    /// Unique in the model.
    pub name: String,
    /// How its numbers are stored.
    pub kind: GgmlType,
    /// Outermost dimension first.
    pub shape: Vec<u64>,
    /// Where its data lies.
    pub span: FileSpan,
}

impl GgufModelTensor {
    /// The number of elements; `None` if it overflows (never for a validated header).
    pub fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim))
    }
}

/// The parts that `model-00002-of-00003.gguf` is one of: what comes before its number, its number and how many there
/// are; `None` for a name of another form.
pub(crate) fn split_name(name: &str) -> Option<(&str, u32, u32)> {
    let digits = |text: &str| match text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u32>().ok(),
        false => None,
    };
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let (number, count) = (digits(number)?, digits(count)?);
    (1..=count).contains(&number).then_some((stem, number, count))
}

/// Opens the GGUF file `name` in `dir`, with the other parts if it is one of several.
///
/// # Errors
/// [`FormatError::Gguf`] naming the file that is malformed, [`FormatError::File`] for a part that is missing.
pub fn open_gguf_in<D: ModelDir>(dir: &D, name: &str) -> Result<GgufModel, FormatError> {
    let (stem, count) = match split_name(name) {
        Some((stem, _, count)) if count > 1 => (stem, count),
        _ => {
            let (file, header) = read(dir, name)?;
            let tensors = tensors(header.tensors, FileId(0));
            return Ok(GgufModel {
                files: vec![file],
                metadata: header.metadata,
                tensors: tensors.collect(),
            });
        }
    };
    if count as usize > limits::SHARDS {
        let error =
            GgufError::TooMany { what: "parts", count: count.into(), limit: limits::SHARDS };
        return Err(FormatError::Gguf { path: dir.path(name), error });
    }
    let mut model = GgufModel { files: Vec::new(), metadata: BTreeMap::new(), tensors: Vec::new() };
    for part in 0..count {
        let name = format!("{stem}-{:05}-of-{count:05}.gguf", part + 1);
        let (file, header) = read(dir, &name)?;
        check_part(&header, part, count)
            .map_err(|error| FormatError::Gguf { path: dir.path(&name), error })?;
        model.files.push(file);
        model.tensors.extend(tensors(header.tensors, FileId(part)));
        if part == 0 {
            model.metadata = header.metadata;
        }
    }
    match check_whole(&model) {
        Ok(()) => Ok(model),
        Err(error) => Err(FormatError::Gguf { path: dir.path(name), error }),
    }
}

fn tensors(list: Vec<super::GgufTensor>, file: FileId) -> impl Iterator<Item = GgufModelTensor> {
    list.into_iter().map(move |tensor| GgufModelTensor {
        name: tensor.name,
        kind: tensor.kind,
        shape: tensor.shape,
        span: FileSpan { file, offset: tensor.offset, len: tensor.len },
    })
}

/// A part must be the one that its name says.
fn check_part(header: &Gguf, part: u32, count: u32) -> Result<(), GgufError> {
    let said = |key: &str| header.metadata.get(key).and_then(GgufValue::as_u64);
    let (number, parts) = (said("split.no"), said("split.count"));
    let right = number.is_none_or(|number| number == u64::from(part))
        && parts.is_none_or(|parts| parts == u64::from(count));
    let written = |value: Option<u64>| value.map_or("?".to_owned(), |value| value.to_string());
    match right {
        true => Ok(()),
        false => Err(GgufError::WrongPart {
            name: format!("{} of {count}", part + 1),
            file: format!(
                "{} of {}",
                written(number.map(|no| no.saturating_add(1))),
                written(parts)
            ),
        }),
    }
}

fn check_whole(model: &GgufModel) -> Result<(), GgufError> {
    let mut seen = HashSet::with_capacity(model.tensors.len());
    if let Some(twice) = model.tensors.iter().find(|tensor| !seen.insert(tensor.name.as_str())) {
        return Err(GgufError::InTwoParts { tensor: twice.name.clone() });
    }
    let total = model.metadata.get("split.tensors.count").and_then(GgufValue::as_u64);
    match total {
        Some(expected) if expected != model.tensors.len() as u64 => {
            Err(GgufError::WrongTotal { found: model.tensors.len(), expected })
        }
        _ => Ok(()),
    }
}

/// How much of a file is read at first; headers with a tokenizer are longer.
const FIRST_READ: Bytes = Bytes::mib(1);

/// Reads no more of the file than its header, or as much again: how long that is shows only while reading it.
fn read<D: ModelDir>(dir: &D, name: &str) -> Result<(ModelFile, Gguf), FormatError> {
    let path = dir.path(name);
    let failed = |problem| FormatError::File { path: path.clone(), problem };
    let mut file = dir.open(name).map_err(failed)?;
    let mut bytes = Vec::new();
    let mut wanted = FIRST_READ.min(file.len);
    loop {
        read_up_to(&mut file.reader, &mut bytes, wanted)
            .map_err(|error| failed(FileProblem::Os(error)))?;
        match parse_gguf(&bytes, file.len) {
            Ok(header) => return Ok((ModelFile { path, size: file.len }, header)),
            Err(GgufError::Truncated { need, .. })
                if need <= file.len && Bytes::of_len(bytes.len()) == wanted =>
            {
                if need > limits::GGUF_HEADER {
                    let error = GgufError::TooLarge { limit: limits::GGUF_HEADER };
                    return Err(FormatError::Gguf { path, error });
                }
                let twice = wanted.saturating_mul(2).min(limits::GGUF_HEADER);
                wanted = need.max(twice).min(file.len);
            }
            Err(error) => return Err(FormatError::Gguf { path, error }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_split_model_are_known_by_their_names() {
        assert_eq!(split_name("m-00002-of-00003.gguf"), Some(("m", 2, 3)));
        assert_eq!(split_name("a-b-q4-00001-of-00001.gguf"), Some(("a-b-q4", 1, 1)));
        for other in [
            "m.gguf",
            "m-2-of-3.gguf",
            "m-00004-of-00003.gguf",
            "m-00000-of-00003.gguf",
            "m-00001-of-00002.bin",
        ] {
            assert_eq!(split_name(other), None, "{other}");
        }
    }
}
