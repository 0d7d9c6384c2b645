//! The header's JSON, read by streaming visitors: duplicate names stay visible, the tensor being
//! read is known when something is wrong with its entry, and nothing nests deeper than the format.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::HeaderError;
use crate::limits;

/// A header entry before anything about it is checked.
pub(super) struct RawTensor {
    pub(super) name: String,
    pub(super) dtype: String,
    /// At most one more dimension than allowed.
    pub(super) shape: Vec<u64>,
    /// Start and end, from the start of the data section.
    pub(super) offsets: [u64; 2],
}

#[derive(Default)]
pub(super) struct RawHeader {
    pub(super) tensors: Vec<RawTensor>,
    pub(super) metadata: BTreeMap<String, String>,
}

const METADATA: &str = "__metadata__";

pub(super) fn parse(json: &[u8]) -> Result<RawHeader, HeaderError> {
    let text = std::str::from_utf8(json)
        .map_err(|error| HeaderError::NotUtf8 { at: 8 + error.valid_up_to() })?;
    let mut header = RawHeader::default();
    let mut stop = Stop::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let read = HeaderSeed { header: &mut header, stop: &mut stop }
        .deserialize(&mut json)
        .and_then(|()| json.end());
    match read {
        Ok(()) => Ok(header),
        Err(error) => Err(stop.explain(error.to_string())),
    }
}

/// Where reading was when it failed.
#[derive(Default)]
struct Stop {
    /// The key whose value was being read.
    entry: Option<String>,
    /// A limit that was hit.
    refused: Option<HeaderError>,
}

impl Stop {
    fn explain(self, reason: String) -> HeaderError {
        match (self.refused, self.entry) {
            (Some(refused), _) => refused,
            (None, Some(entry)) if entry == METADATA => HeaderError::BadMetadata { reason },
            (None, Some(tensor)) => HeaderError::BadEntry { tensor, reason },
            (None, None) => HeaderError::NotJson { reason },
        }
    }
}

struct HeaderSeed<'a> {
    header: &'a mut RawHeader,
    stop: &'a mut Stop,
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object that maps tensor names to their entries")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            self.stop.refused = over_limit(&name, self.header.tensors.len());
            if self.stop.refused.is_some() {
                return Err(A::Error::custom("over a limit"));
            }
            self.stop.entry = Some(name.clone());
            if name == METADATA {
                self.header.metadata = map.next_value()?;
            } else {
                let Entry { dtype, shape: Shape(shape), data_offsets: offsets } =
                    map.next_value()?;
                self.header.tensors.push(RawTensor { name, dtype, shape, offsets });
            }
            self.stop.entry = None;
        }
        Ok(())
    }
}

fn over_limit(name: &str, tensors: usize) -> Option<HeaderError> {
    if name.len() > limits::NAME {
        let start = name.chars().take(64).collect();
        return Some(HeaderError::NameTooLong { start, len: name.len(), limit: limits::NAME });
    }
    let limit = limits::TENSORS_PER_FILE;
    (tensors >= limit).then_some(HeaderError::TooManyTensors { limit })
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Shape,
    data_offsets: [u64; 2],
}

/// Dimensions; reading stops collecting one past [`limits::DIMENSIONS`].
struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dims;
        impl<'de> Visitor<'de> for Dims {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut dims = Vec::new();
                while dims.len() <= limits::DIMENSIONS {
                    match seq.next_element()? {
                        Some(dim) => dims.push(dim),
                        None => return Ok(Shape(dims)),
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Shape(dims))
            }
        }
        deserializer.deserialize_seq(Dims)
    }
}
