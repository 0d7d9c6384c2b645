//! How fast bytes move between main memory and NVIDIA GPUs, timed through CUDA's driver.

use std::path::Path;
use std::time::{Duration, Instant};

use overflowml_types::BytesPerSecond;
use serde::{Deserialize, Serialize};

use crate::cuda::{Buffer, Context, CudaError, Driver};

/// How timing went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LinkState {
    /// CUDA's driver was not found, or there is no device that would make looking useful.
    Absent {
        /// Where it was looked for.
        looked_in: Vec<String>,
    },
    /// It was found, but did not answer.
    Failed {
        /// Its name.
        library: String,
        /// What went wrong, in words.
        error: String,
    },
    /// It answers.
    Timed(Vec<DeviceLink>),
}

/// A device's link, or why it could not be timed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceLink {
    /// The device's name.
    pub name: String,
    /// Its identifier, as NVML writes it.
    pub uuid: Option<String>,
    /// The speeds that could be timed.
    pub speed: LinkSpeed,
    /// Why some are missing.
    pub error: Option<String>,
}

/// Speeds of copies between main memory and a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkSpeed {
    /// To the device, from memory that it reads by itself.
    #[serde(rename = "pinned_in_bytes_per_second")]
    pub pinned_in: Option<BytesPerSecond>,
    /// Back, to such memory.
    #[serde(rename = "pinned_out_bytes_per_second")]
    pub pinned_out: Option<BytesPerSecond>,
    /// To the device, from usual memory.
    #[serde(rename = "pageable_in_bytes_per_second")]
    pub pageable_in: Option<BytesPerSecond>,
    /// Back, to usual memory.
    #[serde(rename = "pageable_out_bytes_per_second")]
    pub pageable_out: Option<BytesPerSecond>,
}

/// Long enough that starting a copy does not count; less is tried where so much cannot be pinned.
const SIZES: [usize; 3] = [256 << 20, 32 << 20, 4 << 20];

/// How long each of the four is timed.
const EACH: Duration = Duration::from_millis(250);

/// After that no further device is begun: making its context takes up to seconds.
const ENOUGH: Duration = Duration::from_secs(7);

/// Times all devices through the first of `libraries` that can be loaded.
pub(crate) fn time(libraries: &[String]) -> LinkState {
    for library in libraries {
        match Driver::load(library) {
            Ok(driver) => {
                return devices(&driver)
                    .map_or_else(|error| failed(library, &error), LinkState::Timed);
            }
            // A file that is there and cannot be loaded is a finding of its own.
            Err(CudaError::Load(_)) if !Path::new(library).is_file() => {}
            Err(error) => return failed(library, &error),
        }
    }
    LinkState::Absent { looked_in: libraries.to_vec() }
}

fn failed(library: &str, error: &CudaError) -> LinkState {
    LinkState::Failed { library: library.to_owned(), error: error.to_string() }
}

fn devices(driver: &Driver) -> Result<Vec<DeviceLink>, CudaError> {
    let begun = Instant::now();
    let mut links = Vec::new();
    for index in 0..driver.count()? {
        let mut speed = LinkSpeed::default();
        let error = if begun.elapsed() > ENOUGH {
            Some("there was no time left for it".to_owned())
        } else {
            device(driver, index, &mut speed).err().map(|error| error.to_string())
        };
        links.push(DeviceLink {
            name: driver.name(index).unwrap_or_else(|_| "NVIDIA GPU".to_owned()),
            uuid: driver.uuid(index).ok().map(|bytes| uuid(&bytes)),
            speed,
            error,
        });
    }
    Ok(links)
}

/// Fills in what can be timed before something fails.
fn device(driver: &Driver, index: i32, speed: &mut LinkSpeed) -> Result<(), CudaError> {
    let context = driver.context(index)?;
    let mut buffer = first_that_works(|len| context.buffer(len))?;
    let mut plain = vec![1_u8; SIZES[0]];
    let usual = &mut plain[..buffer.len()];
    speed.pageable_in = Some(rate(usual.len(), || buffer.fill(usual))?);
    speed.pageable_out = Some(rate(buffer.len(), || buffer.read(usual))?);
    pinned(&context, &mut buffer, speed)
}

fn pinned(
    context: &Context<'_>,
    buffer: &mut Buffer<'_>,
    speed: &mut LinkSpeed,
) -> Result<(), CudaError> {
    let mut pinned = first_that_works(|len| context.pinned(len.min(buffer.len())))?;
    let bytes = pinned.bytes();
    speed.pinned_in = Some(rate(bytes.len(), || buffer.fill(bytes))?);
    speed.pinned_out = Some(rate(bytes.len(), || buffer.read(bytes))?);
    Ok(())
}

fn first_that_works<T>(allocate: impl Fn(usize) -> Result<T, CudaError>) -> Result<T, CudaError> {
    let smaller = SIZES[1..].iter();
    smaller.fold(allocate(SIZES[0]), |got, &len| got.or_else(|_| allocate(len)))
}

/// Bytes per second of repeating `copy`, which moves `len` bytes. The first is not counted: pages are touched then.
fn rate(
    len: usize,
    mut copy: impl FnMut() -> Result<(), CudaError>,
) -> Result<BytesPerSecond, CudaError> {
    const LEAST: u32 = 3;
    copy()?;
    let begun = Instant::now();
    let mut copies = 0_u32;
    while copies < LEAST || begun.elapsed() < EACH {
        copy()?;
        copies += 1;
    }
    #[allow(clippy::cast_precision_loss)] // some hundred megabytes
    let bytes = len as f64 * f64::from(copies);
    let rate = BytesPerSecond::new(bytes / begun.elapsed().as_secs_f64().max(1e-9));
    Ok(rate.unwrap_or(BytesPerSecond::ONE))
}

/// As NVML writes it: `GPU-` and five groups of hexadecimal digits.
fn uuid(bytes: &[u8; 16]) -> String {
    let mut text = "GPU".to_owned();
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 0 | 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_written_as_the_management_library_does() {
        let bytes = [0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0xff];
        assert_eq!(uuid(&bytes), "GPU-1a2b3c4d-0001-0203-0405-060708090aff");
    }

    #[test]
    fn a_library_that_is_nowhere_is_absent_and_one_that_is_no_library_fails() {
        let absent = time(&["/nonexistent/libcuda.so.1".to_owned()]);
        assert!(matches!(absent, LinkState::Absent { looked_in } if looked_in.len() == 1));
        let file = tempfile::NamedTempFile::new().unwrap();
        let failed = time(&[file.path().display().to_string()]);
        assert!(matches!(failed, LinkState::Failed { .. }));
    }
}
