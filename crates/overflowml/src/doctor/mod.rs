//! What works on this machine, what does not, and what to do about it.
//!
//! Facts are gathered first (the machine, the host, a Python and its packages, a model); the checks
//! are pure functions from facts to findings. Nothing is imported, measured or changed: a stored
//! calibration is read, never made. The only traces are our own cache folder and, if asked for, a
//! bundle file.

mod bundle;
mod checks;
mod host;
mod model;
mod packages;
mod python;
mod redact;
mod report;
mod software;

use std::path::PathBuf;

use overflowml_hardware::{ProbeOptions, probe};
use overflowml_types::Machine;

pub use bundle::{Bundle, BundleError};
pub use redact::Redactor;
pub use report::{DoctorReport, Environment, Hardware, Issue, Severity};

use host::Host;
use model::ModelFacts;
use packages::Installed;
use python::Python;

/// What to look at.
#[derive(Clone, Debug, Default)]
pub struct DoctorOptions {
    /// A model to check against this machine: a path or a name.
    pub model: Option<String>,
}

/// What was found, and the facts behind it.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// The answer.
    pub report: DoctorReport,
    /// What `detect` would print.
    pub machine: Machine,
}

/// Everything that the checks look at.
#[derive(Clone, Debug)]
struct Facts {
    machine: Machine,
    host: Host,
    python: Python,
    model: Option<ModelFacts>,
}

/// Looks at this machine, and at a model if one is given.
///
/// Blocks: a Python is started once, with a time limit.
pub fn diagnose(options: &DoctorOptions) -> Diagnosis {
    let path = options.model.as_deref().and_then(crate::local_path);
    let path = path.unwrap_or_else(|| PathBuf::from("."));
    let machine = probe(&ProbeOptions { path: Some(path), ..ProbeOptions::default() });
    let device = machine.disk.as_ref().and_then(|disk| disk.device.as_deref());
    let host = host::probe(machine.cpu.usable.value, device);
    let model = options.model.as_deref().map(|model| model::look(model, &machine));
    let facts = Facts { host, python: python::probe(), model, machine };
    Diagnosis { report: examine(&facts), machine: facts.machine }
}

/// Facts to findings: pure.
fn examine(facts: &Facts) -> DoctorReport {
    let mut issues = software::python(&facts.python);
    let installed = facts.python.installed();
    if let Some(installed) = installed {
        issues.extend(software::torch(installed, &facts.machine));
        issues.extend(software::driver(installed, &facts.machine));
        issues.extend(software::dependencies(installed));
        issues.extend(software::flash_attention(installed, &facts.machine));
    }
    issues.extend(checks::gpu(&facts.machine, &facts.host));
    issues.extend(checks::memory(&facts.machine));
    issues.extend(checks::disk(&facts.machine, &facts.host));
    issues.extend(checks::host(&facts.host));
    issues.extend(facts.model.iter().map(ModelFacts::issue));
    issues.extend(software::rules(installed, &facts.machine, &facts.host));
    DoctorReport::new(environment(facts), hardware(&facts.machine), issues)
}

fn environment(facts: &Facts) -> Environment {
    let installed = facts.python.installed();
    let build = installed.and_then(|installed| installed.torch.clone()).unwrap_or_default();
    let versions = installed.map(|installed| installed.versions.clone()).unwrap_or_default();
    Environment {
        overflowml: env!("CARGO_PKG_VERSION").to_owned(),
        python: facts.python.version(),
        platform: format!("{} {}", facts.machine.os, facts.machine.cpu.architecture),
        torch: versions.get("torch").cloned(),
        torch_cuda: build.cuda,
        torch_hip: build.hip,
        packages: versions,
    }
}

fn hardware(machine: &Machine) -> Hardware {
    const GIB: f64 = 1_073_741_824.0;
    let gpu = machine.gpus.first();
    Hardware {
        gpu: gpu.map(|gpu| gpu.name.clone()),
        vram_gb: gpu.and_then(|gpu| gpu.total.as_ref()).map(|total| total.value.as_f64() / GIB),
        ram_gb: machine.memory.total.value.as_f64() / GIB,
    }
}

impl Python {
    /// What is installed, if it could be asked.
    fn installed(&self) -> Option<&Installed> {
        match self {
            Self::Found { installed, .. } => Some(installed),
            _ => None,
        }
    }

    fn version(&self) -> Option<String> {
        match self {
            Self::Found { answer, .. } => {
                let (major, minor, patch) = answer.version;
                Some(format!("{major}.{minor}.{patch}"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
