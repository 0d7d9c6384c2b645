//! What NVIDIA's management library answers, call by call.

use overflowml_types::Bytes;
use serde::{Deserialize, Serialize};

/// One call's answer. Refusals are information: `NOT_SUPPORTED` for memory means that there is none of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Answer<T> {
    Refused {
        /// The name of NVML's code, without `NVML_ERROR_`.
        error: String,
    },
    Said(T),
}

impl<T> Default for Answer<T> {
    fn default() -> Self {
        Self::Refused { error: "NOT_ASKED".to_owned() }
    }
}

impl<T> Answer<T> {
    pub(crate) fn said(&self) -> Option<&T> {
        match self {
            Self::Said(value) => Some(value),
            Self::Refused { .. } => None,
        }
    }

    pub(crate) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Refused { error } if error == "NOT_SUPPORTED")
    }

    /// Whether the library is too old to have the call.
    pub(crate) fn is_unknown_call(&self) -> bool {
        matches!(self, Self::Refused { error } if error == "FUNCTION_NOT_FOUND")
    }
}

/// How asking went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NvmlState {
    /// The library was not found, or there is no device that would make looking useful.
    Absent { looked_in: Vec<String> },
    /// It was found, but did not answer.
    Failed { library: String, error: String },
    /// It answers.
    Present(Nvml),
}

/// What the library says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Nvml {
    /// The name it was loaded by.
    pub(crate) library: String,
    #[serde(default)]
    pub(crate) version: Answer<String>,
    #[serde(default)]
    pub(crate) driver: Answer<String>,
    /// For example 12080 for CUDA 12.8.
    #[serde(default)]
    pub(crate) cuda: Answer<i32>,
    pub(crate) devices: Vec<Answer<NvmlDevice>>,
}

/// What the library says of one device, or of one part of a divided one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NvmlDevice {
    #[serde(default)]
    pub(crate) name: Answer<String>,
    #[serde(default)]
    pub(crate) uuid: Answer<String>,
    #[serde(default)]
    pub(crate) pci: Answer<String>,
    #[serde(default)]
    pub(crate) memory_v2: Answer<NvmlMemory>,
    /// Asked of drivers that lack the second version.
    #[serde(default)]
    pub(crate) memory_v1: Answer<NvmlMemory>,
    #[serde(default)]
    pub(crate) compute_capability: Answer<(u32, u32)>,
    #[serde(default)]
    pub(crate) max_link_generation: Answer<u32>,
    #[serde(default)]
    pub(crate) max_link_width: Answer<u32>,
    #[serde(default)]
    pub(crate) current_link_generation: Answer<u32>,
    #[serde(default)]
    pub(crate) current_link_width: Answer<u32>,
    #[serde(default)]
    pub(crate) memory_bus_bits: Answer<u32>,
    #[serde(default)]
    pub(crate) max_memory_clock_mhz: Answer<u32>,
    #[serde(default)]
    pub(crate) max_sm_clock_mhz: Answer<u32>,
    #[serde(default)]
    pub(crate) cores: Answer<u32>,
    /// Whether the card is divided now.
    #[serde(default)]
    pub(crate) mig_enabled: Answer<bool>,
    /// Its parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) mig: Vec<NvmlDevice>,
    /// Of a part: how much of the card it is.
    #[serde(default)]
    pub(crate) slices: Answer<Slices>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) processes: Vec<NvmlProcess>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NvmlMemory {
    #[serde(rename = "total_bytes")]
    pub(crate) total: Bytes,
    #[serde(default, rename = "reserved_bytes")]
    pub(crate) reserved: Option<Bytes>,
    #[serde(rename = "free_bytes")]
    pub(crate) free: Bytes,
    #[serde(rename = "used_bytes")]
    pub(crate) used: Bytes,
}

/// Shares of a divided card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slices {
    pub(crate) gpu: u32,
    pub(crate) compute: u32,
    #[serde(rename = "memory_bytes")]
    pub(crate) memory: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NvmlProcess {
    pub(crate) pid: u32,
    #[serde(rename = "used_bytes")]
    pub(crate) used: Option<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_survive_being_stored() {
        let device = NvmlDevice {
            memory_v2: Answer::Refused { error: "NOT_SUPPORTED".to_owned() },
            compute_capability: Answer::Said((12, 1)),
            ..NvmlDevice::default()
        };
        let text = serde_json::to_string(&device).unwrap();
        let read: NvmlDevice = serde_json::from_str(&text).unwrap();
        assert_eq!(read, device);
        assert!(read.memory_v2.is_unsupported() && !read.memory_v1.is_unsupported());
    }
}
