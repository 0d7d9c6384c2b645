//! Everything that a machine said, before anything is concluded from it.
//!
//! A capture is a folder: `proc/` and `sys/` as the system shows them, and one file for each thing that is asked in
//! another way. The machines in `fixtures/machines` have this form, and so has what a running system is asked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use overflowml_types::{Bytes, IsaExtension};
use serde::{Deserialize, Serialize};

use crate::apple::MetalDevice;
use crate::nvidia::NvmlState;
use crate::root::Root;
use crate::windows::DxgiAdapter;

/// What a machine said.
#[derive(Clone, Debug)]
pub(crate) struct Capture {
    pub(crate) system: System,
    /// Linux shows nearly all in files.
    pub(crate) root: Root,
    /// Variables that hide devices or order them.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) nvml: NvmlState,
    /// What macOS's commands print.
    pub(crate) sysctl: Option<String>,
    pub(crate) vm_stat: Option<String>,
    pub(crate) ioreg: Option<String>,
    pub(crate) metal: Option<MetalDevice>,
    /// What Windows' `reg query` prints for the class of display adapters.
    pub(crate) registry: Option<String>,
    pub(crate) dxgi: Option<Vec<DxgiAdapter>>,
}

/// What is known without asking a vendor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct System {
    /// `linux`, `macos` or `windows`.
    pub(crate) os: String,
    /// `x86_64` or `aarch64`.
    pub(crate) architecture: String,
    /// The path whose disk is asked about.
    #[serde(default)]
    pub(crate) path: Option<PathBuf>,
    /// What the standard library says; where no file does.
    #[serde(default)]
    pub(crate) threads: Option<usize>,
    /// Windows only: what its own calls say.
    #[serde(default)]
    pub(crate) host: Option<HostFacts>,
}

/// What a system without files such as `/proc/meminfo` says about itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct HostFacts {
    pub(crate) cpu: Option<String>,
    pub(crate) logical: Option<usize>,
    pub(crate) physical: Option<usize>,
    #[serde(default)]
    pub(crate) extensions: Vec<IsaExtension>,
    #[serde(rename = "total_bytes")]
    pub(crate) total: Option<Bytes>,
    #[serde(rename = "available_bytes")]
    pub(crate) available: Option<Bytes>,
}

/// Variables that change which devices a program sees, or in which order.
pub(crate) const VARIABLES: [&str; 6] = [
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "HSA_OVERRIDE_GFX_VERSION",
    "ZE_AFFINITY_MASK",
];

impl Capture {
    pub(crate) fn is(&self, os: &str) -> bool {
        self.system.os == os
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str)
    }

    /// A machine in a folder. What is not in the folder was not said.
    #[cfg(test)]
    pub(crate) fn read(folder: impl Into<PathBuf>) -> Self {
        let root = Root::at(folder);
        let json = |name: &str| root.read(name);
        let system = json("system.json").map_or_else(
            || System {
                os: "linux".to_owned(),
                architecture: "x86_64".to_owned(),
                path: None,
                threads: None,
                host: None,
            },
            |text| serde_json::from_str(&text).expect("system.json"),
        );
        let env = root.read("env.txt").unwrap_or_default();
        let nvml = json("nvml.json").map_or_else(
            || NvmlState::Absent { looked_in: Vec::new() },
            |text| serde_json::from_str(&text).expect("nvml.json"),
        );
        Self {
            system,
            env: parse_env(&env),
            nvml,
            sysctl: root.read("sysctl.txt"),
            vm_stat: root.read("vm_stat.txt"),
            ioreg: root.read("ioreg.txt"),
            metal: json("metal.json").map(|text| serde_json::from_str(&text).expect("metal.json")),
            registry: root.read("registry.txt"),
            dxgi: json("dxgi.json").map(|text| serde_json::from_str(&text).expect("dxgi.json")),
            root,
        }
    }
}

/// Lines such as `CUDA_VISIBLE_DEVICES=0,1`.
#[cfg(test)]
fn parse_env(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
