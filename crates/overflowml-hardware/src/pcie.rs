//! PCI devices as Linux shows them: their addresses, names, and the way to them.

use std::path::{Path, PathBuf};

use overflowml_types::{BytesPerSecond, Known, Link};

use crate::root::Root;

/// What copies reach of a link's raw rate.
const EFFICIENCY: f64 = 0.8;

/// Address in the form that all sources can be compared in: `0000:01:00.0`. NVML writes eight digits of domain and
/// capitals.
pub(crate) fn address(text: &str) -> Option<String> {
    let mut parts = text.trim().split(':');
    let (domain, bus, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let (device, function) = rest.split_once('.')?;
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    Some(format!(
        "{:04x}:{:02x}:{:02x}.{:x}",
        hex(domain)?,
        hex(bus)?,
        hex(device)?,
        hex(function)?
    ))
}

/// A file that holds a number such as `0x10de`.
pub(crate) fn read_hex(root: &Root, file: impl AsRef<Path>) -> Option<u32> {
    let text = root.read(file)?;
    u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

/// The folder of the device at `address`.
pub(crate) fn folder(address: &str) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(address)
}

/// The least generation and width on the way to the device in `folder`, which may be a link into `/sys/devices`.
///
/// A card can be faster than its slot, so every part of the way counts. Cards with a switch of their own are the
/// exception: what is behind their switch is no part of the way, and Intel's say nonsense there.
pub(crate) fn link(root: &Root, folder: &Path) -> Option<Link> {
    let path = root.resolve(folder)?;
    let parts = path.ancestors().take_while(|part| part.join("vendor").is_file());
    let parts: Vec<&Path> = parts.collect();
    let mut link = Link::default();
    for part in parts.iter().skip(behind_own_switch(&parts)) {
        let number = |name: &str| Root::text(&part.join(name)).and_then(|text| parse_width(&text));
        let speed = |name: &str| Root::text(&part.join(name)).and_then(|text| generation(&text));
        least(&mut link.generation, speed("max_link_speed"));
        least(&mut link.width, number("max_link_width"));
        least(&mut link.current_generation, speed("current_link_speed"));
        least(&mut link.current_width, number("current_link_width"));
    }
    (link != Link::default()).then_some(link)
}

/// How many of the parts, from the device on, are inside the card: with a switch of its maker above it, the device and
/// the port that it hangs on.
fn behind_own_switch(parts: &[&Path]) -> usize {
    let vendor = |part: &Path| Root::text(&part.join("vendor"));
    match parts {
        [device, port, switch, _, ..]
            if vendor(device) == vendor(port) && vendor(port) == vendor(switch) =>
        {
            2
        }
        _ => 0,
    }
}

/// The least of what two sources say; what only one says stands.
pub(crate) fn least(own: &mut Option<u32>, other: Option<u32>) {
    *own = match (*own, other) {
        (Some(own), Some(other)) => Some(own.min(other)),
        (own, other) => own.or(other),
    };
}

/// What is expected of a link until it is measured.
pub(crate) fn assume_rate(link: &mut Link) {
    let (Some(generation), Some(width)) = (link.generation, link.width) else { return };
    if link.rate.is_none() {
        link.rate = raw_rate(generation, width)
            .map(|rate| Known::assumed(rate, format!("80 % of PCIe {generation}.0 x{width}")));
    }
}

fn raw_rate(generation: u32, width: u32) -> Option<BytesPerSecond> {
    let per_lane = match generation {
        1 => 0.25e9,
        2 => 0.5e9,
        3 => 0.985e9,
        4 => 1.969e9,
        5 => 3.938e9,
        6 => 7.563e9,
        _ => return None,
    };
    BytesPerSecond::new(per_lane * f64::from(width) * EFFICIENCY)
}

/// Reads `16.0 GT/s PCIe`.
fn generation(speed: &str) -> Option<u32> {
    let (number, _) = speed.trim().split_once(' ')?;
    let speed: f64 = number.parse().ok()?;
    let known = [(2.5, 1), (5.0, 2), (8.0, 3), (16.0, 4), (32.0, 5), (64.0, 6)];
    known.into_iter().find(|(own, _)| (own - speed).abs() < 0.1).map(|(_, generation)| generation)
}

/// Ports that are off say 0 or 255 lanes.
fn parse_width(text: &str) -> Option<u32> {
    text.trim().parse().ok().filter(|width| (1..=32).contains(width))
}

/// The marketing name in the system's list of PCI devices.
pub(crate) fn name(root: &Root, vendor: u32, device: u32) -> Option<String> {
    const LISTS: [&str; 2] = ["/usr/share/hwdata/pci.ids", "/usr/share/misc/pci.ids"];
    let list = LISTS.iter().find_map(|list| root.read(list))?;
    parse_name(&list, vendor, device)
}

/// The list has `10de  NVIDIA Corporation`, and below it `⇥2684  AD102 [GeForce RTX 4090]`.
fn parse_name(list: &str, vendor: u32, device: u32) -> Option<String> {
    let (vendor, device) = (format!("{vendor:04x}  "), format!("\t{device:04x}  "));
    let mut lines = list.lines().skip_while(|line| !line.starts_with(&vendor)).skip(1);
    let own = lines.by_ref().take_while(|line| line.starts_with('\t') || line.starts_with('#'));
    let name = own.into_iter().find_map(|line| line.strip_prefix(&device).map(str::to_owned))?;
    let bracketed = name.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    Some(bracketed.map_or(name.clone(), |(inner, _)| inner.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_all_sources_are_made_alike() {
        assert_eq!(address("00000000:0A:00.0").as_deref(), Some("0000:0a:00.0"));
        assert_eq!(address("0000:0a:00.0\n").as_deref(), Some("0000:0a:00.0"));
        assert_eq!(address("0a:00.0"), None);
        assert_eq!(address("GPU-1"), None);
    }

    #[test]
    fn speeds_are_generations_and_dead_ports_are_silent() {
        assert_eq!(generation("2.5 GT/s PCIe\n"), Some(1));
        assert_eq!(generation("16.0 GT/s PCIe"), Some(4));
        assert_eq!(generation("Unknown"), None);
        assert_eq!(parse_width("16\n"), Some(16));
        assert_eq!((parse_width("0"), parse_width("255")), (None, None));
    }

    #[test]
    fn the_least_of_two_sources_counts() {
        let mut own = Some(5);
        least(&mut own, Some(4));
        least(&mut own, None);
        assert_eq!(own, Some(4));
    }

    #[test]
    fn a_link_that_nobody_measured_is_assumed_to_reach_four_fifths() {
        let mut link = Link { generation: Some(4), width: Some(16), ..Link::default() };
        assume_rate(&mut link);
        let rate = link.rate.unwrap();
        assert!((rate.value.get() / 1e9 - 25.2).abs() < 0.1);
        assert_eq!(rate.source, "80 % of PCIe 4.0 x16");
    }

    #[test]
    fn names_come_from_the_vendor_s_own_part_of_the_list() {
        let list = "# comment\n1002  AMD\n\t744c  Navi 31 [Radeon RX 7900 XTX]\n\t\t1002 0e3b  x\n\
                    10de  NVIDIA Corporation\n\t744c  other\n\t2684  AD102 [GeForce RTX 4090]\n";
        assert_eq!(parse_name(list, 0x1002, 0x744c).as_deref(), Some("Radeon RX 7900 XTX"));
        assert_eq!(parse_name(list, 0x10de, 0x2684).as_deref(), Some("GeForce RTX 4090"));
        assert_eq!(parse_name(list, 0x10de, 0x744c).as_deref(), Some("other"));
        assert_eq!(parse_name(list, 0x1002, 0x2684), None);
    }
}
