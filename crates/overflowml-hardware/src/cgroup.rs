//! Control groups, versions 1 and 2: a process may use what the tightest of its group's ancestors leaves.

use std::path::{Path, PathBuf};

use overflowml_types::{Bytes, CgroupLimit, Container, Known};

use crate::root::Root;

/// Version 1 says "no limit" with the largest number of whole pages; nothing real is as large.
const NO_LIMIT: u64 = 1 << 60;

/// The limits of every ancestor, innermost first.
pub(crate) fn container(root: &Root) -> Container {
    let groups = root.read("/proc/self/cgroup").unwrap_or_default();
    let mounts = root.read("/proc/self/mountinfo").unwrap_or_default();
    let (groups, mounts) = (parse_groups(&groups), parse_mounts(&mounts));
    let mut memory_limits = Vec::new();
    let mut quotas = Vec::new();
    for group in &groups {
        let memory = group.controls("memory");
        let cpu = group.controls("cpu");
        if !memory && !cpu {
            continue;
        }
        let Some(mount) = mounts.iter().find(|mount| mount.holds(group)) else { continue };
        for (name, folder) in ancestors(root, mount, group) {
            if memory {
                memory_limits.extend(memory_limit(root, &name, &folder, mount.unified));
            }
            if cpu {
                quotas.extend(quota(root, &folder, mount.unified));
            }
        }
    }
    let tightest = quotas.into_iter().min_by(|a, b| a.value.total_cmp(&b.value));
    Container { memory_limits, cpu_quota: tightest }
}

/// A line of `/proc/self/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    /// Of version 1; empty for version 2.
    controllers: Vec<String>,
    path: String,
}

impl Group {
    fn unified(&self) -> bool {
        self.controllers.is_empty()
    }

    fn controls(&self, controller: &str) -> bool {
        self.unified() || self.controllers.iter().any(|own| own == controller)
    }
}

/// Reads lines such as `4:memory:/docker/abc` and `0::/user.slice`.
fn parse_groups(text: &str) -> Vec<Group> {
    let line = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let controllers = controllers.split(',').filter(|name| !name.is_empty());
        Some(Group { controllers: controllers.map(str::to_owned).collect(), path: path.to_owned() })
    };
    text.lines().filter_map(line).collect()
}

/// A mounted hierarchy of control groups.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    unified: bool,
    /// Of version 1.
    controllers: Vec<String>,
    /// The group that the mount point shows; not `/` inside many containers.
    shows: String,
    point: String,
}

impl Mount {
    fn holds(&self, group: &Group) -> bool {
        self.unified == group.unified()
            && (self.unified || group.controllers.iter().any(|own| self.controllers.contains(own)))
    }
}

/// The control-group lines of `/proc/self/mountinfo`.
fn parse_mounts(text: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let before: Vec<&str> = before.split(' ').collect();
        let after: Vec<&str> = after.split(' ').collect();
        let unified = match *after.first()? {
            "cgroup2" => true,
            "cgroup" => false,
            _ => return None,
        };
        let controllers = after.get(2)?.split(',').map(str::to_owned).collect();
        let (shows, point) = ((*before.get(3)?).to_owned(), (*before.get(4)?).to_owned());
        Some(Mount { unified, controllers, shows, point })
    };
    text.lines().filter_map(line).collect()
}

/// The group's folder and those of its ancestors, up to what is mounted, innermost first.
fn ancestors(root: &Root, mount: &Mount, group: &Group) -> Vec<(String, PathBuf)> {
    let inside = group.path.strip_prefix(mount.shows.trim_end_matches('/')).unwrap_or(&group.path);
    // In a container the path may be one of the host, which is not visible here: its own group is then what
    // is mounted.
    let inside = inside.trim_matches('/');
    let visible = !inside.contains("..") && root.path(&mount.point).join(inside).is_dir();
    let inside = if visible { Path::new(inside) } else { Path::new("") };
    let name = |path: &Path| format!("/{}", path.display());
    inside.ancestors().map(|path| (name(path), Path::new(&mount.point).join(path))).collect()
}

fn memory_limit(root: &Root, group: &str, folder: &Path, unified: bool) -> Option<CgroupLimit> {
    let number = |name: &str| root.read_number(folder.join(name));
    let (limit, used, prefix) = if unified {
        // `memory.high` throttles long before `memory.max` kills.
        let limits = [number("memory.max"), number("memory.high")];
        (limits.into_iter().flatten().min()?, number("memory.current")?, "")
    } else {
        (number("memory.limit_in_bytes")?, number("memory.usage_in_bytes")?, "total_")
    };
    if limit >= NO_LIMIT {
        return None;
    }
    let stat = root.read(folder.join("memory.stat")).unwrap_or_default();
    Some(CgroupLimit {
        group: group.to_owned(),
        limit: Bytes::new(limit),
        used: Bytes::new(used),
        reclaimable: parse_file_cache(&stat, prefix),
    })
}

/// File cache in `memory.stat`, which is given back under pressure.
fn parse_file_cache(stat: &str, prefix: &str) -> Bytes {
    let of = |name: &str| {
        let wanted = format!("{prefix}{name}");
        let line = stat.lines().find_map(|line| line.strip_prefix(&wanted)?.strip_prefix(' '));
        line.and_then(|number| number.trim().parse().ok()).map_or(Bytes::ZERO, Bytes::new)
    };
    of("active_file").saturating_add(of("inactive_file"))
}

/// Processors that a group may use on average.
fn quota(root: &Root, folder: &Path, unified: bool) -> Option<Known<f64>> {
    if unified {
        let file = folder.join("cpu.max");
        let quota = parse_cpu_max(&root.read(&file)?)?;
        return Some(Known::reported(quota, file.display().to_string()));
    }
    let file = folder.join("cpu.cfs_quota_us");
    let period = root.read_number(folder.join("cpu.cfs_period_us"))?;
    // -1 is no limit, and no number of microseconds.
    let quota = root.read_number(&file)?;
    Some(Known::reported(share(quota, period)?, file.display().to_string()))
}

/// Reads `150000 100000` and `max 100000`.
fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    share(quota.parse().ok()?, period.parse().ok()?)
}

#[allow(clippy::cast_precision_loss)] // microseconds of a scheduling period
fn share(quota: u64, period: u64) -> Option<f64> {
    (period > 0).then(|| quota as f64 / period as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_group_lines_are_read() {
        let groups = parse_groups("5:cpu,cpuacct:/a:b\n0::/user.slice/x\nnonsense\n");
        assert_eq!(groups.len(), 2);
        assert!(groups[0].controls("cpu") && !groups[0].controls("memory"));
        assert_eq!(groups[0].path, "/a:b");
        assert!(groups[1].unified() && groups[1].controls("memory"));
    }

    #[test]
    fn quotas_are_shares_of_a_period() {
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max("1 0"), None);
        assert_eq!(parse_cpu_max(""), None);
    }

    #[test]
    fn file_cache_is_the_hierarchy_s_own_line_and_not_one_that_begins_alike() {
        let stat = "active_file 10\nactive_file_x 99\ninactive_file 5\ntotal_active_file 400\n";
        assert_eq!(parse_file_cache(stat, ""), Bytes::new(15));
        assert_eq!(parse_file_cache(stat, "total_"), Bytes::new(400));
    }
}
