use std::collections::BTreeSet;

use overflowml_types::Basis;

use super::*;
use crate::nvidia::empty;

#[test]
fn there_are_many_entries_and_every_name_is_its_own() {
    assert!(ENTRIES.len() >= 60, "{}", ENTRIES.len());
    let names: BTreeSet<String> = ENTRIES.iter().map(|entry| key(entry.name)).collect();
    assert_eq!(names.len(), ENTRIES.len());
    for entry in ENTRIES {
        assert_eq!(find(entry.name).unwrap().name, entry.name);
    }
}

#[test]
fn figures_are_in_the_range_of_real_machines() {
    for entry in ENTRIES {
        assert!(entry.memory >= Bytes::gib(6) && entry.memory <= Bytes::gib(512), "{entry:?}");
        assert!((6e10..=1e13).contains(&entry.rate), "{entry:?}");
        assert!((2e12..=3e15).contains(&entry.flops), "{entry:?}");
        assert_eq!(entry.link.is_none(), entry.pool == Pool::Shared, "{entry:?}");
        assert_eq!(entry.compute_capability().is_some(), entry.vendor == Vendor::Nvidia);
        if let Some((generation, width)) = entry.link {
            assert!((3..=5).contains(&generation) && [8, 16].contains(&width), "{entry:?}");
        }
    }
    assert_eq!(find("GB10").unwrap().compute_capability(), Some((12, 1)));
}

#[test]
fn names_are_found_however_they_are_typed() {
    let found = |name: &str| find(name).unwrap().name;
    for name in ["RTX 4090", "rtx4090", "NVIDIA GeForce RTX 4090", "4090", "geforce rtx-4090"] {
        assert_eq!(found(name), "RTX 4090");
    }
    assert_eq!(found("7900xtx"), "RX 7900 XTX");
    assert_eq!(found("m4 max"), "Apple M4 Max (40-core)");
    assert_eq!(found("Apple M4 Max (32-core GPU)"), "Apple M4 Max (32-core)");
    assert_eq!(found("strix halo"), "Radeon 8060S");
    assert_eq!(found("Intel(R) Arc(TM) B580 Graphics"), "Arc B580");
    assert_eq!(found("NVIDIA A100-SXM4-80GB"), "A100 80GB");
    assert_eq!(found("RTX 3060"), "RTX 3060 12GB", "the larger of two that share the name");
}

#[test]
fn a_wrong_name_is_answered_with_those_that_resemble_it() {
    let refused = find("RTX 4099").unwrap_err();
    assert!(refused.closest.contains(&"RTX 4090"), "{refused}");
    assert_eq!(refused.closest.len(), 3);
    assert!(find("").unwrap_err().closest.is_empty());
    assert!(find("GeForce").is_err(), "a maker's word is no name");
}

#[test]
fn variants_of_one_name_are_told_by_their_memory() {
    let detected = |gib: u64| {
        let mut gpu = Gpu {
            name: "NVIDIA GeForce RTX 3060".to_owned(),
            total: Some(Known::reported(Bytes::gib(gib), "NVML")),
            ..empty(Vendor::Nvidia)
        };
        fill(&mut gpu);
        gpu
    };
    assert_eq!(detected(12).rate.unwrap().value.get(), 360e9);
    assert_eq!(detected(8).rate.unwrap().value.get(), 240e9);
    assert_eq!(detected(16).rate, None, "no such card is published");
    let gpu = detected(12);
    assert_eq!(gpu.flops.unwrap().basis, Basis::Assumed);
    // The slot may be slower than the card.
    let link = gpu.link.unwrap();
    assert_eq!((link.generation, link.rate.unwrap().basis), (None, Basis::Assumed));
}

#[test]
fn what_a_driver_reports_is_not_overwritten() {
    let rate = Known::reported(BytesPerSecond::new(1.0e12).unwrap(), "NVML");
    let mut gpu = Gpu {
        name: "NVIDIA GeForce RTX 4090".to_owned(),
        rate: Some(rate.clone()),
        ..empty(Vendor::Nvidia)
    };
    fill(&mut gpu);
    assert_eq!(gpu.rate, Some(rate));
    assert_eq!(gpu.compute_capability, Some((8, 9)));
}

#[test]
fn a_described_machine_is_whole_and_says_that_it_is_assumed() {
    let machine = find("RTX 5090").unwrap().machine(Bytes::gib(194), "windows");
    let gpu = &machine.gpus[0];
    assert_eq!(gpu.total.as_ref().unwrap().value, Bytes::gib(32));
    assert!(gpu.free.as_ref().unwrap().value > Bytes::gib(30));
    assert_eq!(gpu.link.as_ref().unwrap().generation, Some(5));
    assert_eq!(machine.memory.available.basis, Basis::Assumed);
    assert!(machine.memory.available.value >= Bytes::gib(186));
    let text = serde_json::to_string(&machine).unwrap();
    assert_eq!(serde_json::from_str::<overflowml_types::Machine>(&text).unwrap(), machine);
}

#[test]
fn a_described_mac_has_one_pool_with_a_limit() {
    let machine = find("M1").unwrap().machine(Bytes::gib(16), "macos");
    let gpu = &machine.gpus[0];
    assert_eq!((gpu.pool, &gpu.link, &machine.memory.pinnable), (Pool::Shared, &None, &None));
    assert_eq!(machine.cpu.architecture, "aarch64");
    let limit = gpu.limit.as_ref().unwrap().value;
    assert!(limit > Bytes::gib(11) && limit < Bytes::gib(12), "{limit}");
}

#[test]
fn memory_alone_describes_a_gpu_and_nothing_describes_none() {
    let wanted = |vram| Wanted { gpu: None, count: 2, vram, ram: Bytes::gib(32), os: "linux" };
    assert!(wanted(None).machine().gpus.is_empty());
    let machine = wanted(Some(Bytes::gib(24))).machine();
    assert_eq!(machine.gpus.iter().map(|gpu| gpu.index).collect::<Vec<_>>(), [0, 1]);
    assert_eq!((machine.gpus[0].vendor, machine.gpus[0].rate.as_ref()), (Vendor::Other, None));
}
