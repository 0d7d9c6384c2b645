//! What the checks need of this machine beyond what `detect` tells.

use std::path::{Path, PathBuf};

use crate::cache_dir;
use crate::calibration::Calibration;

/// NVIDIA in PCI's list of vendors.
const NVIDIA: &str = "0x10de";

/// Facts about the host.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    /// Linux inside Windows.
    pub(super) wsl: bool,
    /// The kernel's setting for transparent huge pages: `always`, `madvise` or `never`.
    pub(super) huge_pages: Option<String>,
    /// Copies of the driver's libraries that hide those of Windows.
    pub(super) shadowing: Vec<PathBuf>,
    /// Whether there is an NVIDIA device on the bus, with or without a driver.
    pub(super) nvidia_on_bus: bool,
    /// Our own folder, and why nothing can be written to it.
    pub(super) cache: CacheFolder,
    /// What was measured here.
    pub(super) calibration: Option<Measured>,
}

/// Our own folder.
#[derive(Clone, Debug, Default)]
pub(super) struct CacheFolder {
    pub(super) path: PathBuf,
    pub(super) refused: Option<String>,
}

/// A stored calibration.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measured {
    /// Days since it was made.
    pub(super) age_days: u64,
    /// Speed of the disk that is asked about, in bytes per second.
    pub(super) disk: Option<f64>,
}

/// Looks, for a machine with `threads` whose model is on `device`.
pub(super) fn probe(threads: usize, device: Option<&str>) -> Host {
    let wsl = read("/proc/sys/kernel/osrelease").is_some_and(|release| is_wsl(&release));
    Host {
        wsl,
        huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled")
            .and_then(|text| chosen(&text)),
        shadowing: if wsl { shadowing(Path::new("/")) } else { Vec::new() },
        nvidia_on_bus: nvidia_on_bus(Path::new("/sys/bus/pci/devices")),
        cache: try_cache(cache_dir()),
        calibration: Calibration::stored(threads).map(|stored| Measured {
            age_days: stored.age().as_secs() / 86_400,
            disk: device.and_then(|device| stored.disks.get(device)).map(|disk| disk.read.get()),
        }),
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Kernels of WSL name their maker.
fn is_wsl(release: &str) -> bool {
    release.to_ascii_lowercase().contains("microsoft")
}

/// The word in brackets of `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// Driver libraries in a distribution's own folders while Windows provides its own.
fn shadowing(root: &Path) -> Vec<PathBuf> {
    const FOLDERS: [&str; 3] =
        ["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64"];
    const LIBRARIES: [&str; 3] =
        ["libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1"];
    if !root.join("usr/lib/wsl/lib").is_dir() {
        return Vec::new();
    }
    let files =
        FOLDERS.iter().flat_map(|folder| LIBRARIES.map(|name| root.join(folder).join(name)));
    files.filter(|file| file.exists()).collect()
}

/// Whether a display or compute device (PCI class 03) is NVIDIA's.
fn nvidia_on_bus(devices: &Path) -> bool {
    let entries = std::fs::read_dir(devices).into_iter().flatten().flatten();
    let field = |device: &Path, name: &str| read(device.join(name)).unwrap_or_default();
    entries.map(|entry| entry.path()).any(|device| {
        field(&device, "vendor").trim() == NVIDIA && field(&device, "class").starts_with("0x03")
    })
}

/// Writes a file of our own there, and removes it.
fn try_cache(path: PathBuf) -> CacheFolder {
    let file = path.join(format!("doctor.{}.tmp", std::process::id()));
    let written = std::fs::create_dir_all(&path).and_then(|()| std::fs::write(&file, b"doctor\n"));
    // Ignored: there may be nothing to remove.
    let _ = std::fs::remove_file(&file);
    CacheFolder { path, refused: written.err().map(|error| error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_of_wsl_are_known_by_name() {
        assert!(is_wsl("5.15.153.1-microsoft-standard-WSL2\n"));
        assert!(is_wsl("4.4.0-19041-Microsoft"));
        assert!(!is_wsl("6.8.0-45-generic"));
    }

    #[test]
    fn the_setting_in_brackets_is_the_one_in_force() {
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(chosen("always madvise never\n"), None);
    }

    #[test]
    fn a_distribution_s_driver_libraries_hide_those_of_windows_only_on_wsl() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("usr/lib/x86_64-linux-gnu");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(own.join("libcuda.so.1"), "").unwrap();
        assert!(shadowing(root.path()).is_empty());
        std::fs::create_dir_all(root.path().join("usr/lib/wsl/lib")).unwrap();
        assert_eq!(shadowing(root.path()), [own.join("libcuda.so.1")]);
    }

    #[test]
    fn a_display_device_of_nvidia_is_found_and_its_sound_device_is_not() {
        let bus = tempfile::tempdir().unwrap();
        let add = |name: &str, vendor: &str, class: &str| {
            let device = bus.path().join(name);
            std::fs::create_dir(&device).unwrap();
            std::fs::write(device.join("vendor"), vendor).unwrap();
            std::fs::write(device.join("class"), class).unwrap();
        };
        add("0000:01:00.1", "0x10de\n", "0x040300\n");
        add("0000:00:02.0", "0x8086\n", "0x030000\n");
        assert!(!nvidia_on_bus(bus.path()));
        add("0000:02:00.0", "0x10de\n", "0x030200\n");
        assert!(nvidia_on_bus(bus.path()));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let good = try_cache(folder.path().join("a/b"));
        assert_eq!(good.refused, None);
        assert_eq!(std::fs::read_dir(&good.path).unwrap().count(), 0);
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(try_cache(folder.path().join("file/b")).refused.is_some());
    }
}
