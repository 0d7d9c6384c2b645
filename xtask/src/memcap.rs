//! `memcap SIZE COMMAND…`: runs a command under a hard memory limit that also counts page cache.
//!
//! A control group of its own, version 1 or 2, whichever holds the memory controller; that takes
//! root on Linux. Pages that other processes have already cached are not charged to the group, so
//! an honest measurement drops the model's files from the cache first.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

const V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";

/// Runs `arguments`, a size and a command, and exits as the command does (137 if it was killed).
pub fn run(arguments: &[String]) -> Result<ExitCode> {
    let [size, program, rest @ ..] = arguments else {
        bail!("usage: cargo xtask memcap SIZE COMMAND...   (SIZE: bytes, or 512MiB, 5.5GiB)");
    };
    let limit = parse_size(size).with_context(|| format!("`{size}` is not a size"))?;
    let group = Group::create(limit)?;
    let status = group.command(program).args(rest).status();
    let status = status.with_context(|| format!("cannot start {program}"))?;
    let code = exit_code(status);
    eprintln!("memcap: exit {code}, limit {limit}, peak {}{}", group.peak(), group.kills());
    Ok(ExitCode::from(code))
}

/// Bytes from a plain number or one with a binary unit.
fn parse_size(text: &str) -> Option<u64> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    for (unit, shift) in units {
        if let Some(number) = text.strip_suffix(unit) {
            let number: f64 = number.trim().parse().ok()?;
            let bytes = number * f64::from(2_u32).powi(shift);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked"
            )]
            return (bytes.is_finite() && bytes >= 1.0).then_some(bytes as u64);
        }
    }
    text.parse().ok().filter(|&bytes| bytes > 0)
}

fn exit_code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return u8::try_from(128 + signal).unwrap_or(u8::MAX);
    }
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// A memory control group that lives as long as this value.
struct Group {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Group {
    /// A new, empty group limited to `limit` bytes, swap included where that can be said.
    fn create(limit: u64) -> Result<Self> {
        let version = if Path::new(V1).is_dir() { Version::One } else { Version::Two };
        let parent = Path::new(if version == Version::One { V1 } else { V2 });
        if version == Version::Two {
            // The controller may already be enabled, or not be there: creating the limit tells.
            let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
        }
        let folder = parent.join(format!("overflowml-memcap-{}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| explain(&error, &folder))?;
        let group = Self { folder, version };
        group.limit_to(limit).with_context(|| {
            format!("{} has no memory controller that can be limited", parent.display())
        })?;
        Ok(group)
    }

    fn limit_to(&self, limit: u64) -> io::Result<()> {
        let write = |file: &str, value: String| fs::write(self.folder.join(file), value);
        match self.version {
            Version::One => {
                write("memory.limit_in_bytes", limit.to_string())?;
                // Only there where swap is accounted.
                let _ = write("memory.memsw.limit_in_bytes", limit.to_string());
            }
            Version::Two => {
                write("memory.max", limit.to_string())?;
                let _ = write("memory.swap.max", "0".to_owned());
            }
        }
        Ok(())
    }

    /// `program`, to be started inside the group: a shell moves itself there and becomes it.
    fn command(&self, program: &str) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", r#"echo $$ > "$0" && exec "$@""#]);
        shell.arg(self.folder.join("cgroup.procs")).arg(program);
        shell
    }

    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(file)).ok()
    }

    /// The most that was charged, page cache included.
    fn peak(&self) -> String {
        let file = match self.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        };
        self.read(file).map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
    }

    /// A remark if the kernel killed something in the group for memory.
    fn kills(&self) -> String {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let killed = self.read(file).and_then(|text| kill_count(&text)).unwrap_or(0);
        if killed == 0 { String::new() } else { format!(", {killed} killed for memory") }
    }
}

/// The `oom_kill` line of a group's events.
fn kill_count(events: &str) -> Option<u64> {
    events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

impl Drop for Group {
    /// Removes the group; it stays busy for a moment after its last process has ended.
    fn drop(&mut self) {
        for _ in 0..20 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            let _ = fs::write(self.folder.join("memory.force_empty"), "0");
            thread::sleep(Duration::from_millis(50));
        }
        eprintln!("memcap: {} could not be removed", self.folder.display());
    }
}

fn explain(error: &io::Error, folder: &Path) -> anyhow::Error {
    let why = match error.kind() {
        io::ErrorKind::PermissionDenied => "a hard memory limit takes root",
        io::ErrorKind::ReadOnlyFilesystem => "control groups are read-only here (a container?)",
        io::ErrorKind::NotFound => "this system has no control groups",
        _ => "a control group could not be made",
    };
    anyhow::anyhow!("{why}: {}: {error}", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_binary_units() {
        assert_eq!(parse_size("1024"), Some(1024));
        assert_eq!(parse_size("5.5GiB"), Some(5_905_580_032));
        assert_eq!(parse_size("512 MiB"), Some(536_870_912));
        for wrong in ["", "0", "-1", "2GB", "NaNGiB", "0MiB"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn kills_are_counted_from_either_version() {
        assert_eq!(kill_count("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), Some(2));
        assert_eq!(kill_count("low 0\nmax 7\noom 1\noom_kill 1\n"), Some(1));
        assert_eq!(kill_count(""), None);
    }

    #[test]
    fn a_command_without_a_size_is_a_usage_error() {
        assert!(run(&["ls".to_owned()]).is_err());
    }
}
