//! One file with what a bug report needs, without whose machine it is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::{Diagnosis, Redactor};
use crate::calibration::Calibration;

/// Files that say what a machine is; absent ones are left out.
const FILES: [&str; 14] = [
    "/proc/version",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/self/limits",
    "/proc/self/cgroup",
    "/proc/self/mountinfo",
    "/proc/driver/nvidia/version",
    "/etc/os-release",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory.high",
    "/sys/fs/cgroup/memory.current",
    "/sys/fs/cgroup/memory.stat",
    "/sys/fs/cgroup/cpu.max",
];

/// Of each file at most this much: processors repeat themselves.
const MOST_READ: u64 = 16 << 10;

/// Variables that change what is found; of others not even the names are told.
const VARIABLES: [&str; 17] = [
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HSA_OVERRIDE_GFX_VERSION",
    "ONEAPI_DEVICE_SELECTOR",
    "LD_LIBRARY_PATH",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "OVERFLOWML_CACHE_DIR",
    "XDG_CACHE_HOME",
];

/// What a bug report needs, redacted.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Bundle(Value);

/// Why a bundle was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// There is a file of that name.
    #[error("`{}` exists", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl BundleError {
    /// Stable name, never reused.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Exists { .. } => "doctor.bundle-exists",
            Self::Write { .. } => "doctor.bundle-not-written",
        }
    }

    /// What the user can change.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exists { .. } => Some("give another name, or `--overwrite`".to_owned()),
            Self::Write { .. } => {
                Some("give a file in a folder of yours: `--bundle FILE`".to_owned())
            }
        }
    }
}

#[derive(Serialize)]
struct Contents<'a> {
    overflowml: &'static str,
    report: &'a super::DoctorReport,
    machine: &'a overflowml_types::Machine,
    calibration: Option<Calibration>,
    variables: BTreeMap<&'static str, String>,
    files: BTreeMap<&'static str, String>,
}

impl Bundle {
    /// Collects what a bug report needs and takes out what `redactor` knows.
    ///
    /// # Errors
    /// Never in practice: if a part cannot be written as JSON.
    pub fn collect(diagnosis: &Diagnosis, redactor: &Redactor) -> Result<Self, serde_json::Error> {
        let set = |name: &'static str| Some((name, std::env::var(name).ok()?));
        let read = |path: &'static str| Some((path, read_start(Path::new(path))?));
        let contents = Contents {
            overflowml: env!("CARGO_PKG_VERSION"),
            report: &diagnosis.report,
            machine: &diagnosis.machine,
            calibration: Calibration::stored(diagnosis.machine.cpu.usable.value),
            variables: VARIABLES.into_iter().filter_map(set).collect(),
            files: FILES.into_iter().filter_map(read).collect(),
        };
        let mut document = redactor.json(&serde_json::to_value(contents)?);
        if let Some(mounts) = document.pointer_mut("/files/~1proc~1self~1mountinfo") {
            *mounts = Value::from(without_servers(mounts.as_str().unwrap_or_default()));
        }
        Ok(Self(document))
    }

    /// As JSON, or as plain text if the name ends in `.txt`.
    fn render(&self, path: &Path) -> String {
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt")) {
            let mut text = String::new();
            as_text(&self.0, "", &mut text);
            text
        } else {
            format!("{:#}\n", self.0)
        }
    }

    /// Writes the file and returns its size in bytes. An existing file is kept unless `overwrite`.
    ///
    /// # Errors
    /// [`BundleError`] if the file exists, or cannot be written.
    pub fn write(&self, path: &Path, overwrite: bool) -> Result<u64, BundleError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => BundleError::Exists { path: path.to_owned() },
            _ => BundleError::Write { path: path.to_owned(), source },
        };
        let mut options = OpenOptions::new();
        options.write(true);
        if overwrite {
            options.create(true).truncate(true);
        } else {
            options.create_new(true);
        }
        let mut file = options.open(path).map_err(failed)?;
        let text = self.render(path);
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(text.len() as u64)
    }
}

fn read_start(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(MOST_READ).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Mounts without the names of servers: `server:/export`, `//server/share`, `user@server:`.
fn without_servers(mounts: &str) -> String {
    let source = |source: &str| -> String {
        if let Some(share) = source.strip_prefix("//") {
            let name = share.split_once('/').map_or("", |(_, name)| name);
            return format!("//<host>/{name}");
        }
        match source.split_once(":/") {
            Some((_, export)) => format!("<host>:/{export}"),
            None => source.to_owned(),
        }
    };
    let line = |line: &str| {
        let Some((before, after)) = line.split_once(" - ") else { return line.to_owned() };
        let mut fields = after.splitn(3, ' ');
        match (fields.next(), fields.next()) {
            // The options of network file systems repeat addresses and user names.
            (Some(kind), Some(from)) => format!("{before} - {kind} {}", source(from)),
            _ => line.to_owned(),
        }
    };
    mounts.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// `report.environment.python: 3.11.7`, one value a line; longer texts indented below their name.
fn as_text(value: &Value, name: &str, text: &mut String) {
    let below = |part: &str| {
        if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") }
    };
    // Writing to a string cannot fail.
    let _ = match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(part, value)| as_text(value, &below(part), text));
            Ok(())
        }
        Value::Array(values) => {
            let numbered = values.iter().enumerate();
            numbered.for_each(|(part, value)| as_text(value, &below(&part.to_string()), text));
            Ok(())
        }
        Value::String(long) if long.contains('\n') => {
            writeln!(text, "{name}:\n  {}", long.replace('\n', "\n  "))
        }
        Value::String(short) => writeln!(text, "{name}: {short}"),
        other => writeln!(text, "{name}: {other}"),
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn servers_are_taken_out_of_mounts() {
        let mounts = "21 20 0:30 / /mnt/m rw - nfs4 nas.example.org:/models rw,addr=10.1.2.3\n\
                      22 20 0:31 / /mnt/s rw shared:1 - cifs //nas/share rw,username=bob\n\
                      20 1 8:2 / / rw - ext4 /dev/sda2 rw";
        let expected = "21 20 0:30 / /mnt/m rw - nfs4 <host>:/models\n\
                        22 20 0:31 / /mnt/s rw shared:1 - cifs //<host>/share\n\
                        20 1 8:2 / / rw - ext4 /dev/sda2";
        assert_eq!(without_servers(mounts), expected);
    }

    #[test]
    fn a_bundle_is_json_or_text_by_its_name_and_replaces_nothing_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = Bundle(json!({"a": {"b": [1, "two\nlines"]}, "c": null}));
        let path = folder.path().join("out.json");
        let size = bundle.write(&path, false).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.len() as u64, size);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), bundle.0);
        let refused = bundle.write(&path, false).unwrap_err();
        assert_eq!(refused.code(), "doctor.bundle-exists");
        assert!(refused.hint().unwrap().contains("--overwrite"));
        std::fs::write(&path, "x".repeat(10_000)).unwrap();
        bundle.write(&path, true).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        let plain = folder.path().join("out.TXT");
        bundle.write(&plain, false).unwrap();
        let plain = std::fs::read_to_string(plain).unwrap();
        assert_eq!(plain, "a.b.0: 1\na.b.1:\n  two\n  lines\nc: null\n");
        let nowhere = bundle.write(&folder.path().join("no/such"), false).unwrap_err();
        assert_eq!(nowhere.code(), "doctor.bundle-not-written");
    }
}
