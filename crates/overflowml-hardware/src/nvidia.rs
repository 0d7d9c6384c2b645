//! NVIDIA GPUs, through the driver's own library, loaded at run time.
//!
//! No context is created on a GPU. A driver can hang: it is asked on a thread of its own, which is given up after a
//! moment.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use overflowml_types::{Bytes, Gpu, GpuProcess, Known, Library, Pool, Vendor};

/// How long the driver may take: a sleeping GPU wakes in about a second.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a machine with a loaded driver has; the last is that of Windows' Linux.
const NODES: [&str; 3] = ["/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"];

const LIBRARY: &str = if cfg!(windows) { "nvml.dll" } else { "libnvidia-ml.so.1" };

/// All GPUs, and how asking went. `live` also lists the processes that hold their memory.
pub(crate) fn probe(live: bool) -> (Vec<Gpu>, Vec<Library>) {
    if cfg!(target_os = "linux") && !NODES.iter().any(|node| Path::new(node).exists()) {
        // Without a device there is no use in looking through the library path.
        let looked_in = NODES.map(str::to_owned).to_vec();
        return (Vec::new(), vec![Library::Absent { name: "NVIDIA driver".to_owned(), looked_in }]);
    }
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        // Nobody listens any more if it took too long.
        let _ = sender.send(ask(live));
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok((gpus, library)) => (gpus, vec![library]),
        Err(_) => {
            let error = format!("no answer within {} seconds", PATIENCE.as_secs());
            (Vec::new(), vec![Library::Failed { name: LIBRARY.to_owned(), error }])
        }
    }
}

fn ask(live: bool) -> (Vec<Gpu>, Library) {
    let name = LIBRARY.to_owned();
    let nvml = match Nvml::builder().lib_path(LIBRARY.as_ref()).init() {
        Ok(nvml) => nvml,
        Err(NvmlError::LibloadingError(_)) => {
            let looked_in = vec!["the system's library path".to_owned()];
            return (Vec::new(), Library::Absent { name, looked_in });
        }
        Err(error) => return (Vec::new(), Library::Failed { name, error: error.to_string() }),
    };
    let driver = nvml.sys_driver_version().ok();
    match nvml.device_count() {
        Ok(count) => {
            let gpus = (0..count).filter_map(|index| {
                let device = nvml.device_by_index(index).ok()?;
                Some(gpu(index, &device, driver.clone(), live))
            });
            (gpus.collect(), Library::Present { name, version: nvml.sys_nvml_version().ok() })
        }
        Err(error) => (Vec::new(), Library::Failed { name, error: error.to_string() }),
    }
}

fn gpu(index: u32, device: &Device<'_>, driver: Option<String>, live: bool) -> Gpu {
    let memory = device.memory_info().ok();
    let capability = device.cuda_compute_capability().ok();
    let known = |bytes: u64, what: &str| Known::reported(Bytes::new(bytes), format!("NVML {what}"));
    Gpu {
        index,
        name: device.name().unwrap_or_else(|_| "NVIDIA GPU".to_owned()),
        vendor: Vendor::Nvidia,
        uuid: device.uuid().ok(),
        pci: device.pci_info().ok().map(|pci| pci.bus_id),
        total: memory.as_ref().map(|memory| known(memory.total, "total memory")),
        free: memory.as_ref().map(|memory| known(memory.free, "free memory")),
        compute_capability: capability.and_then(|capability| {
            Some((capability.major.try_into().ok()?, capability.minor.try_into().ok()?))
        }),
        driver,
        pool: Pool::Own,
        reserved: None,
        limit: None,
        rate: None,
        flops: None,
        link: None,
        architecture: None,
        runtime: None,
        partition: None,
        processes: if live { processes(device) } else { Vec::new() },
    }
}

fn processes(device: &Device<'_>) -> Vec<GpuProcess> {
    let lists = [device.running_compute_processes(), device.running_graphics_processes()];
    let mut all: Vec<_> = lists
        .into_iter()
        .flatten()
        .flatten()
        .map(|process| GpuProcess {
            pid: process.pid,
            used: match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(Bytes::new(bytes)),
                UsedGpuMemory::Unavailable => None,
            },
        })
        .collect();
    // A process that computes and draws is in both lists.
    all.sort_by_key(|process| (process.pid, process.used));
    all.dedup_by_key(|process| process.pid);
    all
}
