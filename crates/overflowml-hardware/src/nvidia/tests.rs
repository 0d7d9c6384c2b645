use overflowml_types::{Basis, Bytes, Known, Library, Pool};

use super::*;
use crate::capture::System;
use crate::root::Root;

fn said(bytes: Bytes) -> Answer<NvmlMemory> {
    let free = bytes.left_after(Bytes::gib(1));
    let reserved = Some(Bytes::mib(300));
    Answer::Said(NvmlMemory { total: bytes, reserved, free, used: Bytes::gib(1) })
}

fn refused<T>(error: &str) -> Answer<T> {
    Answer::Refused { error: error.to_owned() }
}

fn card(id: &str, cores: u32) -> NvmlDevice {
    NvmlDevice {
        name: Answer::Said(format!("NVIDIA {id}")),
        uuid: Answer::Said(format!("GPU-{id}")),
        memory_v2: said(Bytes::gib(24)),
        compute_capability: Answer::Said((8, 9)),
        cores: Answer::Said(cores),
        max_sm_clock_mhz: Answer::Said(2000),
        ..NvmlDevice::default()
    }
}

fn divided(id: &str, parts: &[&str]) -> NvmlDevice {
    let part = |id: &&str| NvmlDevice {
        uuid: Answer::Said(format!("MIG-{id}")),
        memory_v2: said(Bytes::gib(10)),
        slices: Answer::Said(Slices { gpu: 2, compute: 2, memory: Bytes::mib(9856) }),
        ..NvmlDevice::default()
    };
    NvmlDevice {
        mig_enabled: Answer::Said(true),
        mig: parts.iter().map(part).collect(),
        ..card(id, 6912)
    }
}

fn probed(devices: Vec<NvmlDevice>, env: &[(&str, &str)]) -> (Vec<Gpu>, Vec<Library>) {
    let devices = devices.into_iter().map(Answer::Said).collect();
    let nvml = Nvml { library: "libnvidia-ml.so.1".to_owned(), devices, ..Nvml::default() };
    let system = System {
        os: "linux".to_owned(),
        architecture: "x86_64".to_owned(),
        path: None,
        threads: None,
        host: None,
    };
    let capture = Capture {
        system,
        root: Root::at("/nonexistent"),
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        nvml: NvmlState::Present(nvml),
        sysctl: None,
        vm_stat: None,
        ioreg: None,
        metal: None,
        registry: None,
        dxgi: None,
    };
    let host = HostMemory {
        total: Known::reported(Bytes::gib(128), "MemTotal"),
        available: Known::reported(Bytes::gib(100), "MemAvailable"),
    };
    gpus(&capture, &host)
}

fn ids(gpus: &[Gpu]) -> Vec<&str> {
    gpus.iter().filter_map(|gpu| gpu.uuid.as_deref()).collect()
}

#[test]
fn the_fastest_is_first_unless_the_bus_decides() {
    let cards = || vec![card("slow", 3584), card("fast", 16384), card("medium", 7000)];
    assert_eq!(ids(&probed(cards(), &[]).0), ["GPU-fast", "GPU-slow", "GPU-medium"]);
    let by_bus = [("CUDA_DEVICE_ORDER", "PCI_BUS_ID")];
    assert_eq!(ids(&probed(cards(), &by_bus).0), ["GPU-slow", "GPU-fast", "GPU-medium"]);
    let first = [("CUDA_DEVICE_ORDER", "PCI_BUS_ID"), ("CUDA_VISIBLE_DEVICES", "0")];
    assert_eq!(ids(&probed(cards(), &first).0), ["GPU-slow"]);
    let first = [("CUDA_VISIBLE_DEVICES", "0")];
    assert_eq!(ids(&probed(cards(), &first).0), ["GPU-fast"]);
}

#[test]
fn hidden_cards_are_named_with_what_hides_them() {
    let (gpus, libraries) =
        probed(vec![card("a", 1), card("b", 1)], &[("CUDA_VISIBLE_DEVICES", "GPU-b")]);
    assert_eq!(ids(&gpus), ["GPU-b"]);
    let hidden = |library: &&Library| {
        matches!(library, Library::Hidden { by, name }
        if by == "CUDA_VISIBLE_DEVICES=GPU-b" && name == "NVIDIA a")
    };
    assert_eq!(libraries.iter().filter(hidden).count(), 1);
    assert!(probed(vec![card("a", 1)], &[("CUDA_VISIBLE_DEVICES", "")]).0.is_empty());
}

#[test]
fn one_instance_of_a_divided_card_hides_everything_else() {
    let devices = || vec![card("whole", 9000), divided("cut", &["one", "two"])];
    let (gpus, _) = probed(devices(), &[]);
    assert_eq!(ids(&gpus), ["MIG-one"]);
    assert_eq!(gpus[0].total.as_ref().unwrap().value, Bytes::gib(10));
    assert_eq!(gpus[0].partition.as_deref(), Some("2g.10gb"));
    assert_eq!(gpus[0].name, "NVIDIA cut");
    let (gpus, _) = probed(devices(), &[("CUDA_VISIBLE_DEVICES", "MIG-two")]);
    assert_eq!(ids(&gpus), ["MIG-two"]);
    let (gpus, _) = probed(devices(), &[("CUDA_VISIBLE_DEVICES", "0")]);
    assert_eq!(ids(&gpus), ["GPU-whole"]);
}

#[test]
fn a_divided_card_without_instances_offers_nothing() {
    assert!(probed(vec![divided("cut", &[])], &[]).0.is_empty());
}

#[test]
fn the_first_version_s_answer_serves_where_the_second_is_missing() {
    let old = NvmlDevice {
        memory_v2: refused("FUNCTION_NOT_FOUND"),
        memory_v1: Answer::Said(NvmlMemory {
            total: Bytes::gib(8),
            reserved: None,
            free: Bytes::gib(7),
            used: Bytes::gib(1),
        }),
        ..card("old", 1)
    };
    let (gpus, _) = probed(vec![old], &[]);
    assert_eq!(gpus[0].free.as_ref().unwrap().value, Bytes::gib(7));
    assert!(gpus[0].free.as_ref().unwrap().source.contains("first version"));
    assert_eq!((gpus[0].reserved.as_ref(), gpus[0].pool), (None, Pool::Own));
}

#[test]
fn parts_without_memory_of_their_own_use_what_is_available_of_the_host_s() {
    let silent = NvmlDevice {
        memory_v2: refused("NOT_SUPPORTED"),
        memory_v1: refused("NOT_SUPPORTED"),
        compute_capability: Answer::Said((12, 1)),
        ..card("GB10", 6144)
    };
    let mirrors = NvmlDevice {
        memory_v2: said(Bytes::gib(127)),
        max_link_generation: refused("NOT_SUPPORTED"),
        compute_capability: Answer::Said((13, 7)),
        ..card("next", 6144)
    };
    let under = NvmlDevice {
        memory_v2: said(Bytes::mib(8128)),
        compute_capability: Answer::Said((12, 1)),
        max_link_generation: Answer::Said(1),
        ..card("N1X", 6144)
    };
    for device in [silent, mirrors, under] {
        let gpu = probed(vec![device], &[]).0.remove(0);
        assert_eq!((gpu.pool, &gpu.link), (Pool::Shared, &None), "{}", gpu.name);
        assert_eq!(gpu.free.unwrap().value, Bytes::gib(100));
        assert_eq!(gpu.total.unwrap().value, Bytes::gib(128));
    }
}

#[test]
fn a_card_that_refuses_is_not_taken_for_one_that_shares() {
    let lost = NvmlDevice {
        memory_v2: refused("GPU_IS_LOST"),
        memory_v1: refused("GPU_IS_LOST"),
        ..card("lost", 1)
    };
    let gpu = probed(vec![lost], &[]).0.remove(0);
    assert_eq!((gpu.pool, gpu.total, gpu.free), (Pool::Own, None, None));
}

#[test]
fn memory_bandwidth_follows_from_clock_and_width() {
    // Published: RTX 4090 1008 GB/s, A100 80 GB 2039 GB/s, RTX 3060 360 GB/s.
    for (clock, bits, gigabytes) in [(10501, 384, 1008.0), (1593, 5120, 2039.0), (7501, 192, 360.0)]
    {
        let device = NvmlDevice {
            max_memory_clock_mhz: Answer::Said(clock),
            memory_bus_bits: Answer::Said(bits),
            ..NvmlDevice::default()
        };
        let rate = rate(&device).unwrap();
        assert!((rate.value.get() / 1e9 - gigabytes).abs() < 1.0, "{}", rate.value);
        assert_eq!(rate.basis, Basis::Reported);
    }
}

#[test]
fn partitions_are_named_as_the_vendor_names_them() {
    let named = |gpu, compute, mebibytes| {
        let slices = Slices { gpu, compute, memory: Bytes::mib(mebibytes) };
        profile(&NvmlDevice { slices: Answer::Said(slices), ..NvmlDevice::default() }).unwrap()
    };
    assert_eq!(named(3, 3, 19968), "3g.20gb");
    assert_eq!(named(1, 1, 4864), "1g.5gb");
    assert_eq!(named(3, 1, 40192), "1c.3g.40gb");
    assert_eq!(cuda_version(12080), "CUDA 12.8");
    assert_eq!(cuda_version(13000), "CUDA 13.0");
}
