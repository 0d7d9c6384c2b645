//! What `doctor` answers. Field names are a contract: `doctor --json` prints these.

use std::collections::BTreeMap;

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be, or worth knowing.
    Info,
    /// Works, but slower or with less than there could be.
    Warn,
    /// Does not work.
    Error,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Issue {
    /// Stable name, for example `ram_low`.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence.
    pub message: String,
    /// What was found, if it is a value.
    pub detected_value: Option<String>,
    /// A command or an instruction, if something can be done.
    pub suggested_fix: Option<String>,
}

impl Issue {
    fn new(code: impl Into<String>, severity: Severity, message: impl Into<String>) -> Self {
        let (code, message) = (code.into(), message.into());
        Self { code, severity, message, detected_value: None, suggested_fix: None }
    }

    pub(super) fn info(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Info, message)
    }

    pub(super) fn warn(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Warn, message)
    }

    pub(super) fn error(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Error, message)
    }

    pub(super) fn found(self, value: impl ToString) -> Self {
        Self { detected_value: Some(value.to_string()), ..self }
    }

    pub(super) fn fix(self, fix: impl Into<String>) -> Self {
        Self { suggested_fix: Some(fix.into()), ..self }
    }
}

/// The software that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Environment {
    /// This program's version.
    pub overflowml: String,
    /// Python's version.
    pub python: Option<String>,
    /// Operating system and processor architecture.
    pub platform: String,
    /// torch's version.
    pub torch: Option<String>,
    /// The CUDA version that torch was built for.
    pub torch_cuda: Option<String>,
    /// The ROCm version that torch was built for.
    pub torch_hip: Option<String>,
    /// Other packages that matter, with their versions.
    pub packages: BTreeMap<String, String>,
}

/// The hardware in the original's words; `detect` tells more.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Hardware {
    /// The first accelerator's name.
    pub gpu: Option<String>,
    /// Its memory in GiB.
    pub vram_gb: Option<f64>,
    /// Main memory in GiB.
    pub ram_gb: f64,
}

/// Everything that `doctor --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DoctorReport {
    /// Whether nothing is an error.
    pub ok: bool,
    /// The software.
    pub environment: Environment,
    /// The hardware.
    pub hardware: Hardware,
    /// Findings, good ones included, in the order of the checks.
    pub issues: Vec<Issue>,
    /// The fixes of everything that is not as it should be, each once.
    pub fix_commands: Vec<String>,
}

impl DoctorReport {
    pub(super) fn new(environment: Environment, hardware: Hardware, issues: Vec<Issue>) -> Self {
        let ok = issues.iter().all(|issue| issue.severity != Severity::Error);
        let mut fix_commands = Vec::new();
        for issue in issues.iter().filter(|issue| issue.severity != Severity::Info) {
            let new = issue.suggested_fix.iter().filter(|fix| !fix_commands.contains(*fix));
            fix_commands.extend(new.cloned().collect::<Vec<_>>());
        }
        Self { ok, environment, hardware, issues, fix_commands }
    }

    /// How many findings are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.issues.iter().filter(|issue| issue.severity == severity).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(issues: Vec<Issue>) -> DoctorReport {
        DoctorReport::new(Environment::default(), Hardware::default(), issues)
    }

    #[test]
    fn only_an_error_makes_a_report_bad() {
        assert!(report(vec![Issue::info("a", "b"), Issue::warn("c", "d")]).ok);
        let bad = report(vec![Issue::info("a", "b"), Issue::error("c", "d")]);
        assert!(!bad.ok);
        assert_eq!((bad.count(Severity::Info), bad.count(Severity::Error)), (1, 1));
    }

    #[test]
    fn fixes_are_listed_once_and_not_for_what_is_well() {
        let report = report(vec![
            Issue::info("a", "b").fix("nothing"),
            Issue::warn("c", "d").fix("do x"),
            Issue::error("e", "f").fix("do x"),
            Issue::error("g", "h").fix("do y"),
        ]);
        assert_eq!(report.fix_commands, ["do x", "do y"]);
    }
}
