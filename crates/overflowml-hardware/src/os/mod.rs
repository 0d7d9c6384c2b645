//! The last call: what each operating system is asked in its own way. Conclusions are drawn elsewhere.

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod imp;

#[cfg(target_os = "macos")]
#[path = "macos.rs"]
mod imp;

#[cfg(windows)]
#[path = "windows.rs"]
mod imp;

#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
#[path = "other.rs"]
mod imp;

pub(crate) use imp::{
    cuda_libraries, direct_io, free_space, host_facts, look, look_at_host, metal, nvml_libraries,
    process_memory,
};

/// Standard output of a short command; `None` if it cannot be run.
#[cfg(any(target_os = "macos", windows))]
fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (!text.is_empty()).then_some(text)
}
