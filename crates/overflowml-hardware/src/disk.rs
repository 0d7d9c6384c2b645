//! The disk under a path.

use std::path::{Path, PathBuf};

use overflowml_types::{Bytes, Disk, Known};

use crate::root::Root;

/// The disk under `path`, which must exist.
pub(crate) fn under(root: &Root, path: &Path) -> Option<Disk> {
    let path = std::fs::canonicalize(path).ok()?;
    let mut disk = on_mount(root, &path)?;
    let space = rustix::fs::statvfs(&path).ok();
    disk.free = space.map(|space| {
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        Known::reported(Bytes::new(free), "statvfs")
    });
    disk.direct_io = direct_io(&path);
    Some(disk)
}

/// What the system's files say about the disk under an absolute `path`.
pub(crate) fn on_mount(root: &Root, path: &Path) -> Option<Disk> {
    let mounts = root.read("/proc/self/mountinfo")?;
    let mount = mount_of(&parse_mounts(&mounts), path)?;
    let device = mount.source.strip_prefix("/dev/").map(|name| whole_disk(root, name));
    let rotational = device.as_ref().and_then(|device| {
        let file = format!("/sys/block/{device}/queue/rotational");
        Some(Known::reported(root.read_number(&file)? == 1, file))
    });
    Some(Disk {
        path: path.to_owned(),
        device,
        file_system: Some(mount.file_system),
        rotational,
        free: None,
        direct_io: None,
        rate: None,
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    file_system: String,
    source: String,
}

/// Lines of `/proc/self/mountinfo`.
fn parse_mounts(text: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let point = unescape(before.split(' ').nth(4)?);
        let mut after = after.split(' ');
        let (file_system, source) = (after.next()?.to_owned(), unescape(after.next()?));
        Some(Mount { point: point.into(), file_system, source })
    };
    text.lines().filter_map(line).collect()
}

/// The kernel writes blanks, tabs, line breaks and backslashes as `\040`, `\011`, `\012`, `\134`.
fn unescape(text: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.into_iter().fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// The deepest mount above `path`; of several on one point the last, which hides the others.
fn mount_of(mounts: &[Mount], path: &Path) -> Option<Mount> {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    above.max_by_key(|mount| mount.point.components().count()).cloned()
}

/// The disk that a partition is on; other devices are their own.
fn whole_disk(root: &Root, name: &str) -> String {
    // Device-mapper names are links to the numbered device.
    let target = std::fs::canonicalize(root.path("/dev").join(name)).ok();
    let device = target
        .as_deref()
        .and_then(Path::file_name)
        .map_or_else(|| name.to_owned(), |own| own.to_string_lossy().into_owned());
    let disks = std::fs::read_dir(root.path("/sys/block")).into_iter().flatten().flatten();
    let holds = |disk: &PathBuf| disk.join(&device).is_dir();
    let disk = disks.map(|entry| entry.path()).find(holds);
    let name = disk.as_deref().and_then(Path::file_name);
    name.map_or(device, |name| name.to_string_lossy().into_owned())
}

/// Whether a file there can be read past the page cache: tried on `path`, or on a file in it.
fn direct_io(path: &Path) -> Option<Known<bool>> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{Mode, OFlags, open};
        use rustix::io::Errno;
        let file = if path.is_file() { path.to_owned() } else { some_file_in(path)? };
        match open(&file, OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()) {
            Ok(_) => Some(Known::measured(true, "a file was opened so")),
            Err(Errno::INVAL) => Some(Known::measured(false, "a file could not be opened so")),
            Err(_) => None,
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        None
    }
}

#[cfg(target_os = "linux")]
fn some_file_in(folder: &Path) -> Option<PathBuf> {
    const ENOUGH: usize = 64;
    let entries = std::fs::read_dir(folder).ok()?.flatten().take(ENOUGH);
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    files.map(|entry| entry.path()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_is_found_and_blanks_in_its_name_are_read() {
        let mounts = parse_mounts(
            "20 1 8:2 / / rw - ext4 /dev/sda2 rw\n\
             21 20 0:30 / /mnt/my\\040models rw shared:1 - nfs4 server:/models rw\n\
             22 20 8:3 / /mnt rw - xfs /dev/sda3 rw\n",
        );
        let of = |path: &str| mount_of(&mounts, Path::new(path)).unwrap().file_system;
        assert_eq!(of("/mnt/my models/llama"), "nfs4");
        assert_eq!(of("/mnt/my modelsX"), "xfs");
        assert_eq!(of("/home"), "ext4");
    }

    #[test]
    fn the_disk_of_this_test_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let Some(disk) = under(&Root::system(), folder.path()) else { return };
        assert!(disk.file_system.is_some());
        assert!(disk.free.unwrap().value > Bytes::ZERO);
        assert_eq!(under(&Root::system(), &folder.path().join("missing")), None);
    }
}
