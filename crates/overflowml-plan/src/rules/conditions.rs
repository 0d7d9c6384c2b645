//! When a rule applies: every condition that is given must hold.

use std::collections::BTreeSet;

use overflowml_types::{Pool, Vendor};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};

use super::requirement::{Alternatives, Certainty};
use super::situation::{
    Backend, Device, Feature, Kind, Offload, Os, PackageState, Packages, Quantization, Runtime,
    Situation,
};

/// The conditions of a rule. An empty list is no condition.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct When {
    /// One of these runs the model.
    pub(crate) runtime: Vec<Runtime>,
    /// One of these is used.
    pub(crate) offload: Vec<Offload>,
    /// One of these is used: `torchao`, `torchao/fp8`, `*/fp8`.
    pub(crate) quant: Vec<QuantPattern>,
    /// All of these are used.
    pub(crate) features: Vec<Feature>,
    /// None of these is used.
    pub(crate) without: Vec<Feature>,
    /// A part of the model is called so; `*` at the end stands for any ending.
    pub(crate) components: Vec<String>,
    /// The system is one of these.
    pub(crate) os: Vec<Os>,
    /// The accelerator is made by one of these.
    pub(crate) vendor: Vec<VendorOrNone>,
    /// The accelerator's architecture is one of these; `*` at the end stands for any ending.
    pub(crate) architecture: Vec<String>,
    /// Whose memory the accelerator computes in.
    pub(crate) pool: Option<Pool>,
    /// All of these hold of the installed packages.
    pub(crate) versions: Vec<Alternatives>,
}

/// An accelerator's maker, or no accelerator at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VendorOrNone {
    Nvidia,
    Amd,
    Intel,
    Apple,
    None,
}

impl VendorOrNone {
    fn is(self, device: Option<&Device>) -> bool {
        match (self, device.map(|device| device.vendor)) {
            (Self::Nvidia, Some(vendor)) => vendor == Vendor::Nvidia,
            (Self::Amd, Some(vendor)) => vendor == Vendor::Amd,
            (Self::Intel, Some(vendor)) => vendor == Vendor::Intel,
            (Self::Apple, Some(vendor)) => vendor == Vendor::Apple,
            (Self::None, vendor) => vendor.is_none(),
            (_, None) => false,
        }
    }
}

/// Quantisations with this backend and kind; `None` stands for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct QuantPattern {
    pub(crate) backend: Option<Backend>,
    pub(crate) kind: Option<Kind>,
}

impl QuantPattern {
    fn matches(self, quantization: &Quantization) -> bool {
        self.backend.is_none_or(|backend| backend == quantization.backend)
            && self.kind.is_none_or(|kind| kind == quantization.kind)
    }
}

impl TryFrom<String> for QuantPattern {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        fn named<'a, T: Deserialize<'a>>(name: &'a str) -> Result<Option<T>, ValueError> {
            if name == "*" {
                return Ok(None);
            }
            let name: StrDeserializer<'a, ValueError> = name.into_deserializer();
            T::deserialize(name).map(Some)
        }
        let (backend, kind) = text.split_once('/').unwrap_or((&text, "*"));
        Ok(Self { backend: named(backend)?, kind: named(kind)? })
    }
}

/// Whether a rule applies, and what is not known if that is only possible.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) certainty: Certainty,
    pub(crate) unsettled: Vec<String>,
}

impl Verdict {
    fn and(&mut self, certainty: Certainty, unknown: impl FnOnce() -> Vec<String>) {
        self.certainty = self.certainty.min(certainty);
        if certainty == Certainty::Possible {
            self.unsettled.extend(unknown());
        }
    }
}

impl When {
    /// Whether everything that is asked of the plan and the machine holds.
    pub(crate) fn verdict(&self, situation: &Situation) -> Verdict {
        let mut verdict = self.of_surroundings(situation);
        verdict.and(Certainty::settled(self.holds_of_plan(situation)), Vec::new);
        verdict
    }

    /// The same without what depends on a plan: only the runtime, the machine and the packages.
    pub(crate) fn of_surroundings(&self, situation: &Situation) -> Verdict {
        let mut verdict = Verdict { certainty: Certainty::Certain, unsettled: Vec::new() };
        let runtime = self.runtime.is_empty() || any_in(&self.runtime, &situation.runtimes);
        verdict.and(Certainty::settled(runtime), Vec::new);
        verdict.and(self.os(situation), || vec!["the operating system".to_owned()]);
        verdict.and(self.device(situation), || vec!["the accelerator's architecture".to_owned()]);
        for alternatives in &self.versions {
            let names = || {
                let packages = alternatives.0.iter();
                packages.map(|one| format!("the version of {}", one.package())).collect()
            };
            verdict.and(alternatives.holds_in(&situation.packages), names);
        }
        verdict
    }

    /// Whether everything that could quantise as the rule says is known not to be installed.
    pub(crate) fn quantiser_absent(&self, packages: &Packages) -> bool {
        let absent = |pattern: &QuantPattern| {
            let package = pattern.backend.and_then(Backend::package);
            package.is_some_and(|name| packages.state(name) == Some(&PackageState::Absent))
        };
        !self.quant.is_empty() && self.quant.iter().all(absent)
    }

    /// Whether the machine or the packages are a condition at all.
    pub(crate) fn asks_of_surroundings(&self) -> bool {
        !self.versions.is_empty()
            || !self.os.is_empty()
            || !self.vendor.is_empty()
            || !self.architecture.is_empty()
            || self.pool.is_some()
    }

    fn holds_of_plan(&self, situation: &Situation) -> bool {
        let quantized = |pattern: &QuantPattern| {
            situation.quantizations.iter().any(|quantization| pattern.matches(quantization))
        };
        let component = |pattern: &String| {
            situation.components.iter().any(|component| matches_name(pattern, component))
        };
        (self.offload.is_empty() || any_in(&self.offload, &situation.offload))
            && (self.quant.is_empty() || self.quant.iter().any(quantized))
            && self.features.iter().all(|feature| situation.features.contains(feature))
            && !any_in(&self.without, &situation.features)
            && (self.components.is_empty() || self.components.iter().any(component))
    }

    fn os(&self, situation: &Situation) -> Certainty {
        match situation.os {
            _ if self.os.is_empty() => Certainty::Certain,
            Some(os) => Certainty::settled(self.os.contains(&os)),
            None => Certainty::Possible,
        }
    }

    fn device(&self, situation: &Situation) -> Certainty {
        let device = situation.device.as_ref();
        let vendor = self.vendor.is_empty() || self.vendor.iter().any(|vendor| vendor.is(device));
        let pool = self.pool.is_none_or(|pool| device.is_some_and(|device| device.pool == pool));
        let architecture = match device.map(|device| device.architecture.as_deref()) {
            _ if self.architecture.is_empty() => Certainty::Certain,
            Some(Some(architecture)) => Certainty::settled(
                self.architecture.iter().any(|pattern| matches_name(pattern, architecture)),
            ),
            Some(None) => Certainty::Possible,
            None => Certainty::No,
        };
        Certainty::settled(vendor && pool).min(architecture)
    }
}

fn any_in<T: Ord>(wanted: &[T], found: &BTreeSet<T>) -> bool {
    wanted.iter().any(|one| found.contains(one))
}

/// Whether `name` is `pattern`, or begins with it where that ends in `*`.
fn matches_name(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}
