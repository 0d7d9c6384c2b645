//! Which memory and processors are near each other.

use overflowml_types::{Bytes, NumaNode};

use crate::root::Root;

const NODES: &str = "/sys/devices/system/node";

/// The nodes with memory, by number.
pub(crate) fn nodes(root: &Root) -> Vec<NumaNode> {
    let nodes = root.numbered(NODES, "node").into_iter().filter_map(|(node, name)| {
        let total = parse_total(&root.read(format!("{NODES}/{name}/meminfo"))?)?;
        let cpus = root.read(format!("{NODES}/{name}/cpulist")).unwrap_or_default();
        let cpus = cpus.trim().to_owned();
        (!total.is_zero()).then_some(NumaNode { node, total, cpus })
    });
    nodes.collect()
}

/// The line `Node 0 MemTotal:       131896312 kB`.
fn parse_total(text: &str) -> Option<Bytes> {
    let value = text.lines().find_map(|line| line.split_once("MemTotal:"))?.1;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes::kib(1).saturating_mul(kib))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_s_memory_is_read() {
        assert_eq!(parse_total("\nNode 0 MemTotal:       1048576 kB\n"), Some(Bytes::gib(1)));
        assert_eq!(parse_total("Node 0 MemFree: 1 kB"), None);
    }
}
