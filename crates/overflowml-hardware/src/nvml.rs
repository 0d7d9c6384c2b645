//! Asking NVIDIA's management library. No context is created on a GPU.
//!
//! A driver can crash or hang: [`crate::ask`] calls this in a process of its own.

use std::path::Path;
use std::process::{Command, Stdio};

use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml as Library};
use overflowml_types::Bytes;

use crate::nvidia::{Answer, Nvml, NvmlDevice, NvmlMemory, NvmlProcess, NvmlState, Slices};

/// Asks the first of `libraries` that can be loaded.
pub(crate) fn ask(libraries: &[String], live: bool) -> NvmlState {
    for library in libraries {
        match Library::builder().lib_path(library.as_ref()).init() {
            Ok(nvml) => {
                let state = NvmlState::Present(answers(library, &nvml, live));
                if nvml.lib().nvmlShutdown.is_err() {
                    // The wrapper would panic on the missing call.
                    std::mem::forget(nvml);
                }
                return state;
            }
            // A file that is there and cannot be loaded is a finding of its own.
            Err(NvmlError::LibloadingError(_)) if !Path::new(library).is_file() => {}
            Err(error) => {
                let error = error.to_string();
                return NvmlState::Failed { library: library.clone(), error };
            }
        }
    }
    NvmlState::Absent { looked_in: libraries.to_vec() }
}

fn answers(library: &str, nvml: &Library, live: bool) -> Nvml {
    let count = nvml.device_count();
    let mut devices: Vec<Answer<NvmlDevice>> = match count {
        Ok(count) => (0..count).map(|index| device(nvml, index, live)).collect(),
        Err(error) => vec![refused(&error)],
    };
    if devices.iter().filter_map(Answer::said).any(|device| device.memory_v2.is_unknown_call()) {
        fill_first_version(&mut devices);
    }
    Nvml {
        library: library.to_owned(),
        version: answer(nvml.sys_nvml_version()),
        driver: answer(nvml.sys_driver_version()),
        cuda: answer(nvml.sys_cuda_driver_version()),
        devices,
    }
}

fn device(nvml: &Library, index: u32, live: bool) -> Answer<NvmlDevice> {
    let device = match nvml.device_by_index(index) {
        Ok(device) => device,
        Err(error) => return refused(&error),
    };
    let mig_enabled = answer(device.mig_mode().map(|mode| mode.current == 1));
    let mut all = part(&device, live);
    if mig_enabled.said() == Some(&true) {
        let most = device.mig_device_count().unwrap_or(0);
        let parts = (0..most).filter_map(|index| device.mig_device_by_index(index).ok());
        all.mig = parts.map(|device| part(&device, live)).collect();
    }
    all.mig_enabled = mig_enabled;
    Answer::Said(all)
}

/// What a card and a part of one are both asked.
fn part(device: &Device<'_>, live: bool) -> NvmlDevice {
    let capability = device
        .cuda_compute_capability()
        .map(|capability| (capability.major.unsigned_abs(), capability.minor.unsigned_abs()));
    NvmlDevice {
        name: answer(device.name()),
        uuid: answer(device.uuid()),
        pci: answer(device.pci_info().map(|pci| pci.bus_id)),
        memory_v2: answer(device.memory_info().map(|memory| NvmlMemory {
            total: Bytes::new(memory.total),
            reserved: Some(Bytes::new(memory.reserved)),
            free: Bytes::new(memory.free),
            used: Bytes::new(memory.used),
        })),
        memory_v1: Answer::default(),
        compute_capability: answer(capability),
        max_link_generation: answer(device.max_pcie_link_gen()),
        max_link_width: answer(device.max_pcie_link_width()),
        current_link_generation: answer(device.current_pcie_link_gen()),
        current_link_width: answer(device.current_pcie_link_width()),
        memory_bus_bits: answer(device.memory_bus_width()),
        max_memory_clock_mhz: answer(device.max_clock_info(Clock::Memory)),
        max_sm_clock_mhz: answer(device.max_clock_info(Clock::SM)),
        cores: answer(device.num_cores()),
        mig_enabled: Answer::default(),
        mig: Vec::new(),
        slices: answer(device.attributes().map(|own| Slices {
            gpu: own.gpu_instance_slice_count,
            compute: own.compute_instance_slice_count,
            memory: Bytes::mib(1).saturating_mul(own.memory_size_mb),
        })),
        processes: if live { processes(device) } else { Vec::new() },
    }
}

fn processes(device: &Device<'_>) -> Vec<NvmlProcess> {
    let lists = [device.running_compute_processes(), device.running_graphics_processes()];
    let mut all: Vec<_> = lists
        .into_iter()
        .flatten()
        .flatten()
        .map(|process| NvmlProcess {
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

fn answer<T>(result: Result<T, NvmlError>) -> Answer<T> {
    match result {
        Ok(value) => Answer::Said(value),
        Err(error) => refused(&error),
    }
}

/// The name of NVML's own code.
fn refused<T>(error: &NvmlError) -> Answer<T> {
    let name = match error {
        NvmlError::Uninitialized => "UNINITIALIZED",
        NvmlError::InvalidArg => "INVALID_ARGUMENT",
        NvmlError::NotSupported => "NOT_SUPPORTED",
        NvmlError::NoPermission => "NO_PERMISSION",
        NvmlError::NotFound => "NOT_FOUND",
        NvmlError::InsufficientSize(_) => "INSUFFICIENT_SIZE",
        NvmlError::InsufficientPower => "INSUFFICIENT_POWER",
        NvmlError::DriverNotLoaded => "DRIVER_NOT_LOADED",
        NvmlError::Timeout => "TIMEOUT",
        NvmlError::IrqIssue => "IRQ_ISSUE",
        NvmlError::LibraryNotFound => "LIBRARY_NOT_FOUND",
        NvmlError::FunctionNotFound | NvmlError::FailedToLoadSymbol(_) => "FUNCTION_NOT_FOUND",
        NvmlError::CorruptedInfoROM => "CORRUPTED_INFOROM",
        NvmlError::GpuLost => "GPU_IS_LOST",
        NvmlError::ResetRequired => "RESET_REQUIRED",
        NvmlError::OperatingSystem => "OPERATING_SYSTEM",
        NvmlError::LibRmVersionMismatch => "LIB_RM_VERSION_MISMATCH",
        NvmlError::InUse => "IN_USE",
        NvmlError::InsufficientMemory => "MEMORY",
        NvmlError::NoData => "NO_DATA",
        other => return Answer::Refused { error: other.to_string() },
    };
    Answer::Refused { error: name.to_owned() }
}

/// Drivers before 510 have only the first version of the memory call, which their own program uses.
fn fill_first_version(devices: &mut [Answer<NvmlDevice>]) {
    let asked = Command::new("nvidia-smi")
        .arg("--query-gpu=uuid,memory.total,memory.free,memory.used")
        .arg("--format=csv,noheader,nounits")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(output) = asked else { return };
    let lines = parse_smi(&String::from_utf8_lossy(&output.stdout));
    for answer in devices {
        let Answer::Said(device) = answer else { continue };
        let own = lines.iter().find(|(uuid, _)| device.uuid.said() == Some(uuid));
        if let Some((_, memory)) = own {
            device.memory_v1 = Answer::Said(*memory);
        }
    }
}

/// Lines such as `GPU-1a2b…, 8192, 7000, 1192`, in mebibytes.
fn parse_smi(text: &str) -> Vec<(String, NvmlMemory)> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [uuid, total, free, used] = fields.as_slice() else { return None };
        let mebibytes = |text: &str| Some(Bytes::mib(text.parse().ok()?));
        let (total, free, used) = (mebibytes(total)?, mebibytes(free)?, mebibytes(used)?);
        Some(((*uuid).to_owned(), NvmlMemory { total, reserved: None, free, used }))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_s_own_program_is_read_and_its_refusals_are_not_numbers() {
        let lines = parse_smi("GPU-a, 8192, 7000, 1192\nGPU-b, [N/A], [N/A], [N/A]\n\n");
        assert_eq!(lines.len(), 1);
        assert_eq!((lines[0].0.as_str(), lines[0].1.free), ("GPU-a", Bytes::mib(7000)));
    }

    #[test]
    fn a_library_that_is_nowhere_is_absent_and_one_that_is_no_library_fails() {
        let absent = ask(&["/nonexistent/libnvidia-ml.so.1".to_owned()], false);
        assert!(matches!(absent, NvmlState::Absent { looked_in } if looked_in.len() == 1));
        let file = tempfile::NamedTempFile::new().unwrap();
        let failed = ask(&[file.path().display().to_string()], false);
        assert!(matches!(failed, NvmlState::Failed { .. }));
    }
}
