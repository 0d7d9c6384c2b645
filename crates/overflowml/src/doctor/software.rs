//! Checks of Python, torch, other packages, and the rules about them.

use overflowml_plan::rules::{self, Certainty, PackageState, Runtime, Situation};
use overflowml_types::{Machine, Vendor};

use super::host::Host;
use super::packages::{Installed, TorchBuild};
use super::python::Python;
use super::report::Issue;

/// The oldest Python that the package supports.
const OLDEST_PYTHON: (u32, u32, u32) = (3, 10, 0);

/// Packages that the Python side can use, and what for.
const DEPENDENCIES: [(&str, &str); 5] = [
    ("transformers", "language models in Python"),
    ("accelerate", "device maps and offload hooks"),
    ("diffusers", "image and video pipelines"),
    ("torchao", "fp8, 8-bit and 4-bit weights"),
    ("bitsandbytes", "8-bit and NF4 weights"),
];

/// The newest CUDA that a driver serves, by its branch: from NVIDIA's release notes.
const CUDA_OF_DRIVER: [(u32, (u32, u32)); 21] = [
    (590, (13, 1)),
    (580, (13, 0)),
    (575, (12, 9)),
    (570, (12, 8)),
    (565, (12, 7)),
    (560, (12, 6)),
    (555, (12, 5)),
    (550, (12, 4)),
    (545, (12, 3)),
    (535, (12, 2)),
    (530, (12, 1)),
    (525, (12, 0)),
    (520, (11, 8)),
    (515, (11, 7)),
    (510, (11, 6)),
    (495, (11, 5)),
    (470, (11, 4)),
    (465, (11, 3)),
    (460, (11, 2)),
    (455, (11, 1)),
    (450, (11, 0)),
];

/// Builds of torch that PyTorch offers, newest first, with the CUDA that their driver must serve.
const TORCH_BUILDS: [(&str, (u32, u32)); 4] =
    [("cu130", (13, 0)), ("cu128", (12, 8)), ("cu126", (12, 0)), ("cu118", (11, 0))];

pub(super) fn python(python: &Python) -> Vec<Issue> {
    let issue = match python {
        Python::Missing => Issue::warn(
            "python_missing",
            "No Python was found. This command works without; the Python package does not.",
        )
        .fix("Install Python 3.10 or later, or activate a virtual environment"),
        Python::Failed { executable, reason } => {
            let message = format!("The Python at {} {reason}.", executable.display());
            Issue::warn("python_failed", message).fix("python3 --version")
        }
        Python::Found { executable, answer, .. } => {
            let (major, minor, patch) = answer.version;
            let version = format!("{major}.{minor}.{patch}");
            let at = executable.display();
            if answer.version < OLDEST_PYTHON {
                Issue::warn(
                    "python_old",
                    format!("Python {version} at {at}: the Python package needs 3.10 or later."),
                )
                .found(version)
                .fix("Install Python 3.10 or later, and make a virtual environment with it")
            } else {
                Issue::info("python_ok", format!("Python {version} at {at}.")).found(version)
            }
        }
    };
    vec![issue]
}

/// Whether torch is there and built for the accelerator that is there.
pub(super) fn torch(installed: &Installed, machine: &Machine) -> Vec<Issue> {
    let Some(version) = installed.versions.get("torch") else {
        return vec![
            Issue::warn(
                "torch_missing",
                "torch is not installed; only the Python package needs it.",
            )
            .fix(install_torch(machine)),
        ];
    };
    let build = installed.torch.clone().unwrap_or_default();
    let issue = match build {
        TorchBuild { cuda: Some(cuda), .. } => {
            Issue::info("torch_cuda", format!("torch {version} is built for CUDA {cuda}."))
        }
        TorchBuild { hip: Some(hip), .. } => {
            Issue::info("torch_rocm", format!("torch {version} is built for ROCm {hip}."))
        }
        TorchBuild { xpu: Some(xpu), .. } => {
            Issue::info("torch_xpu", format!("torch {version} is built for Intel GPUs ({xpu})."))
        }
        _ if machine.os == "macos" && machine.cpu.architecture == "aarch64" => {
            Issue::info("torch_mps", format!("torch {version} can use Apple's GPU."))
        }
        _ => cpu_only(version, machine),
    };
    vec![issue.found(version)]
}

fn cpu_only(version: &str, machine: &Machine) -> Issue {
    match machine.gpus.first() {
        Some(gpu) => Issue::error(
            "torch_cpu_only",
            format!(
                "torch {version} is built for processors only and cannot use the {}.",
                gpu.name
            ),
        )
        .fix(install_torch(machine)),
        None => Issue::info(
            "torch_cpu_only",
            format!("torch {version} is built for processors only, which is all there is here."),
        ),
    }
}

/// The command that installs a torch for the accelerator that is there.
fn install_torch(machine: &Machine) -> String {
    let from = |build: &str| {
        format!("pip install --upgrade torch --index-url https://download.pytorch.org/whl/{build}")
    };
    match machine.gpus.first().map(|gpu| gpu.vendor) {
        Some(Vendor::Nvidia) => {
            let served = served_cuda(machine).unwrap_or((12, 6));
            let build = TORCH_BUILDS.iter().find(|(_, needed)| *needed <= served);
            from(build.map_or("cu118", |(name, _)| name))
        }
        Some(Vendor::Amd) if machine.os == "linux" => from("rocm6.4"),
        Some(Vendor::Intel) => from("xpu"),
        _ => "pip install --upgrade torch".to_owned(),
    }
}

/// Whether the driver serves the CUDA that torch was built for. A newer driver runs any older
/// CUDA; within one major version an older driver runs a newer CUDA, without what is new in it.
pub(super) fn driver(installed: &Installed, machine: &Machine) -> Option<Issue> {
    let text = installed.torch.as_ref()?.cuda.as_deref()?;
    let (built, served) = (major_minor(text)?, served_cuda(machine)?);
    let driver = machine.gpus.iter().find_map(|gpu| gpu.driver.clone()).unwrap_or_default();
    let (major, minor) = served;
    let told = format!("driver {driver} serves CUDA {major}.{minor}, torch is built for {text}");
    Some(if built.0 > major {
        Issue::error("driver_mismatch", format!("The {told}: it cannot start."))
            .found(driver)
            .fix(install_torch(machine))
    } else if built > served {
        let message = format!(
            "The {told}: most of it works, but code that has to be compiled for the GPU may not."
        );
        Issue::warn("driver_mismatch", message)
            .found(driver)
            .fix("Install a newer NVIDIA driver, or a torch for an older CUDA")
    } else {
        Issue::info("driver_ok", format!("The {told}.")).found(driver)
    })
}

/// What the driver says, else what its branch is known for.
fn served_cuda(machine: &Machine) -> Option<(u32, u32)> {
    let gpu = machine.gpus.iter().find(|gpu| gpu.vendor == Vendor::Nvidia)?;
    let said =
        gpu.runtime.as_deref().and_then(|text| major_minor(text.trim_start_matches("CUDA ")));
    said.or_else(|| {
        let branch: u32 = gpu.driver.as_deref()?.split('.').next()?.parse().ok()?;
        CUDA_OF_DRIVER.iter().find(|(first, _)| *first <= branch).map(|(_, cuda)| *cuda)
    })
}

fn major_minor(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

pub(super) fn dependencies(installed: &Installed) -> Vec<Issue> {
    let check = |(name, purpose): (&str, &str)| match installed.versions.get(name) {
        Some(version) => {
            Issue::info(format!("dep_{name}_ok"), format!("{name} {version}.")).found(version)
        }
        None => Issue::warn(
            format!("dep_{name}_missing"),
            format!("{name} is not installed; it is needed for {purpose}."),
        )
        .fix(format!("pip install {name}")),
    };
    DEPENDENCIES.into_iter().map(check).collect()
}

/// Only where it could run: NVIDIA from compute capability 8.0.
pub(super) fn flash_attention(installed: &Installed, machine: &Machine) -> Option<Issue> {
    let able =
        |gpu: &overflowml_types::Gpu| gpu.compute_capability.is_some_and(|has| has >= (8, 0));
    if !machine.gpus.iter().any(able) {
        return None;
    }
    Some(match installed.versions.get("flash-attn") {
        Some(version) => {
            Issue::info("flash_attn_ok", format!("flash-attn {version}.")).found(version)
        }
        None => Issue::info(
            "flash_attn_missing",
            "flash-attn is not installed; torch's own fused attention is used, which is about as fast.",
        )
        .fix("pip install flash-attn --no-build-isolation"),
    })
}

/// The known incompatibilities of what is installed, on every accelerator that is there.
pub(super) fn rules(installed: Option<&Installed>, machine: &Machine, host: &Host) -> Vec<Issue> {
    let states = installed.map(Installed::states).unwrap_or_default();
    let is_there =
        |package: &str| matches!(states.state(package), Some(PackageState::Installed(_)));
    let runtimes = [
        ("torch", Runtime::Torch),
        ("diffusers", Runtime::Diffusers),
        ("transformers", Runtime::Transformers),
        ("accelerate", Runtime::Accelerate),
    ];
    let machine = Machine { wsl: machine.wsl || host.wsl, ..machine.clone() };
    let gpus: Vec<_> = machine.gpus.iter().map(Some).collect();
    let gpus = if gpus.is_empty() { vec![None] } else { gpus };
    let mut issues: Vec<Issue> = Vec::new();
    for gpu in gpus {
        let mut situation = Situation::on(&machine, gpu);
        situation.packages = states.clone();
        situation.runtimes.insert(Runtime::Overflowml);
        let found = runtimes.iter().filter(|(package, _)| is_there(package));
        situation.runtimes.extend(found.map(|(_, runtime)| *runtime));
        for found in rules::concerning(&situation) {
            let issue = of_rule(&found);
            if !issues.contains(&issue) {
                issues.push(issue);
            }
        }
    }
    issues
}

fn of_rule(found: &rules::Match) -> Issue {
    let rule = found.rule;
    let code = format!("rule_{}", rule.id.replace('-', "_"));
    let versions = rule.versions().join(", ");
    let mut message = format!("{}: {}", rule.title, rule.symptom);
    if found.certainty == Certainty::Possible {
        message.push_str(&format!(" Possible: {} not known.", found.unsettled.join(" and ")));
    }
    let certain = found.certainty == Certainty::Certain && rule.severity > rules::Severity::Note;
    let issue = if certain { Issue::warn(code, message) } else { Issue::info(code, message) };
    let issue = if versions.is_empty() { issue } else { issue.found(versions) };
    issue.fix(rule.remedy.clone())
}
