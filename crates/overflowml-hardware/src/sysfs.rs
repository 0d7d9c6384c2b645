//! Display and compute devices on the PCI bus, as Linux shows them.

use crate::pcie;
use crate::root::Root;

/// A device on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PciDevice {
    pub(crate) address: String,
    pub(crate) vendor: u32,
    pub(crate) device: u32,
    pub(crate) revision: Option<u32>,
}

/// Every display controller and compute accelerator, by address.
pub(crate) fn display_devices(root: &Root) -> Vec<PciDevice> {
    const BUS: &str = "/sys/bus/pci/devices";
    let entries = std::fs::read_dir(root.path(BUS)).into_iter().flatten().flatten();
    let mut devices: Vec<PciDevice> = entries
        .filter_map(|entry| {
            let address = entry.file_name().to_string_lossy().into_owned();
            let folder = pcie::folder(&address);
            let class = pcie::read_hex(root, folder.join("class"))? >> 16;
            // Display controllers, and processing accelerators such as MI300X.
            (class == 0x03 || class == 0x12).then_some(())?;
            at(root, &address)
        })
        .collect();
    devices.sort_by(|a, b| a.address.cmp(&b.address));
    devices
}

/// The device at `address`.
pub(crate) fn at(root: &Root, address: &str) -> Option<PciDevice> {
    let folder = pcie::folder(address);
    Some(PciDevice {
        address: address.to_owned(),
        vendor: pcie::read_hex(root, folder.join("vendor"))?,
        device: pcie::read_hex(root, folder.join("device"))?,
        revision: pcie::read_hex(root, folder.join("revision")),
    })
}

/// A graphics card that a kernel driver serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DrmCard {
    /// For example `/sys/class/drm/card1`.
    pub(crate) folder: String,
    pub(crate) driver: String,
    pub(crate) pci: PciDevice,
}

/// The cards that `drivers` serve, by number.
pub(crate) fn cards(root: &Root, drivers: &[&str]) -> Vec<DrmCard> {
    let numbered = root.numbered("/sys/class/drm", "card");
    let cards = numbered.into_iter().filter_map(|(_, name)| {
        let folder = format!("/sys/class/drm/{name}");
        let event = root.read(format!("{folder}/device/uevent"))?;
        let value = |key: &str| event.lines().find_map(|line| line.strip_prefix(key));
        let driver = value("DRIVER=").filter(|driver| drivers.contains(driver))?;
        let address = pcie::address(value("PCI_SLOT_NAME=")?)?;
        let pci = at(root, &address)?;
        Some(DrmCard { driver: driver.to_owned(), pci, folder })
    });
    cards.collect()
}
