//! The disk under a path.

use std::path::{Path, PathBuf};

use overflowml_types::{Disk, DiskKind, Known};

use crate::os;
use crate::root::Root;

/// The disk under `path`, which must exist.
pub(crate) fn under(root: &Root, path: &Path) -> Option<Disk> {
    let path = std::fs::canonicalize(path).ok()?;
    let mut disk = on_mount(root, &path).unwrap_or_else(|| unknown(&path));
    disk.free = os::free_space(&path);
    disk.direct_io = os::direct_io(&path);
    Some(disk)
}

/// A disk that the system says nothing of, but its space.
fn unknown(path: &Path) -> Disk {
    Disk {
        path: path.to_owned(),
        device: None,
        file_system: None,
        kind: None,
        rotational: None,
        free: None,
        direct_io: None,
        rate: None,
    }
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
        kind: kind(&mount.file_system, device.as_deref()),
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

/// How the file system's disk is attached, by the names that the kernel gives.
fn kind(file_system: &str, device: Option<&str>) -> Option<Known<DiskKind>> {
    let by_file_system = match file_system {
        // `9p` is also how virtual machines see their host's files, drives of Windows among them.
        "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "lustre" | "fuse.sshfs" | "9p" | "virtiofs"
        | "drvfs" | "afs" | "beegfs" | "fuse.gcsfuse" | "fuse.s3fs" => Some(DiskKind::Network),
        "tmpfs" | "ramfs" => Some(DiskKind::Memory),
        "overlay" => Some(DiskKind::Layered),
        _ => None,
    };
    if let Some(kind) = by_file_system {
        return Some(Known::reported(kind, format!("file system {file_system}")));
    }
    let device = device?;
    let prefixes = [
        ("nvme", DiskKind::Nvme),
        ("mmcblk", DiskKind::Flash),
        ("vd", DiskKind::Virtual),
        ("xvd", DiskKind::Virtual),
        ("sd", DiskKind::Sata),
    ];
    let (_, kind) = prefixes.into_iter().find(|(prefix, _)| device.starts_with(prefix))?;
    Some(Known::reported(kind, format!("device name {device}")))
}

#[cfg(test)]
mod tests {
    use overflowml_types::Bytes;

    use super::*;

    #[test]
    fn disks_are_told_by_file_system_and_device_name() {
        let of = |system, device| kind(system, device).map(|kind| kind.value);
        assert_eq!(of("ext4", Some("nvme0n1")), Some(DiskKind::Nvme));
        assert_eq!(of("xfs", Some("sda")), Some(DiskKind::Sata));
        assert_eq!(of("ext4", Some("vda")), Some(DiskKind::Virtual));
        assert_eq!(of("ext4", Some("mmcblk0")), Some(DiskKind::Flash));
        assert_eq!(of("nfs4", None), Some(DiskKind::Network));
        assert_eq!(of("tmpfs", None), Some(DiskKind::Memory));
        assert_eq!(of("ext4", Some("dm-0")), None, "what is below is not said");
    }

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
