//! The few calls of CUDA's driver library that timing the way to a GPU takes, behind safe ones.
//!
//! Unlike everything else here, [`Driver::context`] creates a context on a GPU: only `bench --calibrate` does. A driver
//! can crash or hang: [`crate::ask`] calls this in a process of its own.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use libloading::Library;

/// What a call answers: 0, or an error.
type Code = c_int;

/// Address of a device's memory.
type Address = u64;

/// A loaded library; its calls are those of `cuda.h`.
pub(crate) struct Driver {
    init: unsafe extern "system" fn(c_uint) -> Code,
    count: unsafe extern "system" fn(*mut c_int) -> Code,
    device: unsafe extern "system" fn(*mut c_int, c_int) -> Code,
    name: unsafe extern "system" fn(*mut c_char, c_int, c_int) -> Code,
    uuid: unsafe extern "system" fn(*mut [u8; 16], c_int) -> Code,
    retain: unsafe extern "system" fn(*mut *mut c_void, c_int) -> Code,
    release: unsafe extern "system" fn(c_int) -> Code,
    set_current: unsafe extern "system" fn(*mut c_void) -> Code,
    synchronize: unsafe extern "system" fn() -> Code,
    allocate: unsafe extern "system" fn(*mut Address, usize) -> Code,
    free: unsafe extern "system" fn(Address) -> Code,
    allocate_host: unsafe extern "system" fn(*mut *mut c_void, usize) -> Code,
    free_host: unsafe extern "system" fn(*mut c_void) -> Code,
    copy_in: unsafe extern "system" fn(Address, *const c_void, usize) -> Code,
    copy_out: unsafe extern "system" fn(*mut c_void, Address, usize) -> Code,
    /// Last, so that it outlives the calls above.
    _library: Library,
}

/// A call that did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CudaError {
    #[error("{0}")]
    Load(String),
    #[error("it has no `{0}`")]
    NoCall(String),
    #[error("`{call}` says {code}{}", meaning(*code))]
    Refused { call: &'static str, code: i32 },
}

/// What the commonest codes mean, as `cuda.h` names them.
const fn meaning(code: i32) -> &'static str {
    match code {
        2 => " (out of memory)",
        3 => " (not initialized)",
        34 => " (a stub library)",
        46 => " (device unavailable)",
        100 => " (no device)",
        801 => " (not supported)",
        802 => " (system not ready)",
        803 => " (driver and library do not match)",
        999 => " (unknown)",
        _ => "",
    }
}

fn check(call: &'static str, code: Code) -> Result<(), CudaError> {
    if code == 0 { Ok(()) } else { Err(CudaError::Refused { call, code }) }
}

/// # Safety
/// `T` must be the type of the function `name`, or an error of linking.
unsafe fn find<T: Copy>(library: &Library, name: &CStr) -> Result<T, CudaError> {
    // SAFETY: the caller knows the function's type.
    let symbol = unsafe { library.get::<T>(name.to_bytes_with_nul()) };
    symbol.map(|symbol| *symbol).map_err(|_| CudaError::NoCall(name.to_string_lossy().into_owned()))
}

/// Finds a function whose type is that of the field it is for, as `cuda.h` declares it.
macro_rules! call {
    ($library:expr, $name:literal) => {
        // SAFETY: each field of `Driver` has the type that `cuda.h` declares for this name.
        unsafe { find($library, $name) }
    };
}

impl Driver {
    /// Loads `library` and initialises it.
    pub(crate) fn load(library: &str) -> Result<Self, CudaError> {
        // SAFETY: the file is the vendor's driver, or what the user named instead; its start code runs in a process
        // that was started to ask it.
        let loaded = unsafe { Library::new(library) };
        let library = loaded.map_err(|error| CudaError::Load(error.to_string()))?;
        let driver = Self {
            init: call!(&library, c"cuInit")?,
            count: call!(&library, c"cuDeviceGetCount")?,
            device: call!(&library, c"cuDeviceGet")?,
            name: call!(&library, c"cuDeviceGetName")?,
            // The second version, where there is one, names an instance of a divided card.
            uuid: call!(&library, c"cuDeviceGetUuid_v2")
                .or_else(|_| call!(&library, c"cuDeviceGetUuid"))?,
            retain: call!(&library, c"cuDevicePrimaryCtxRetain")?,
            release: call!(&library, c"cuDevicePrimaryCtxRelease_v2")?,
            set_current: call!(&library, c"cuCtxSetCurrent")?,
            synchronize: call!(&library, c"cuCtxSynchronize")?,
            allocate: call!(&library, c"cuMemAlloc_v2")?,
            free: call!(&library, c"cuMemFree_v2")?,
            allocate_host: call!(&library, c"cuMemAllocHost_v2")?,
            free_host: call!(&library, c"cuMemFreeHost")?,
            copy_in: call!(&library, c"cuMemcpyHtoD_v2")?,
            copy_out: call!(&library, c"cuMemcpyDtoH_v2")?,
            _library: library,
        };
        // SAFETY: takes a number that must be 0.
        check("cuInit", unsafe { (driver.init)(0) })?;
        Ok(driver)
    }

    /// How many devices this process may use.
    pub(crate) fn count(&self) -> Result<i32, CudaError> {
        let mut count = 0;
        // SAFETY: writes one number to where it may.
        check("cuDeviceGetCount", unsafe { (self.count)(&raw mut count) })?;
        Ok(count)
    }

    fn device(&self, index: i32) -> Result<c_int, CudaError> {
        let mut device = 0;
        // SAFETY: writes one number to where it may; a wrong index is refused.
        check("cuDeviceGet", unsafe { (self.device)(&raw mut device, index) })?;
        Ok(device)
    }

    /// The device's marketing name.
    pub(crate) fn name(&self, index: i32) -> Result<String, CudaError> {
        let device = self.device(index)?;
        let mut name = [0_u8; 256];
        let room = 255; // the last byte stays 0
        // SAFETY: writes at most `room` bytes into an array of more.
        check("cuDeviceGetName", unsafe { (self.name)(name.as_mut_ptr().cast(), room, device) })?;
        let text = CStr::from_bytes_until_nul(&name).unwrap_or_default();
        Ok(text.to_string_lossy().into_owned())
    }

    /// The sixteen bytes of its identifier.
    pub(crate) fn uuid(&self, index: i32) -> Result<[u8; 16], CudaError> {
        let device = self.device(index)?;
        let mut uuid = [0; 16];
        // SAFETY: writes sixteen bytes to where it may.
        check("cuDeviceGetUuid", unsafe { (self.uuid)(&raw mut uuid, device) })?;
        Ok(uuid)
    }

    /// The device's own context, made the current one of this thread until it is dropped.
    pub(crate) fn context(&self, index: i32) -> Result<Context<'_>, CudaError> {
        let device = self.device(index)?;
        let mut handle = ptr::null_mut();
        // SAFETY: writes one handle to where it may.
        check("cuDevicePrimaryCtxRetain", unsafe { (self.retain)(&raw mut handle, device) })?;
        let context = Context { driver: self, device, handle };
        // SAFETY: the handle was given a moment ago, and is released only when `context` is dropped.
        check("cuCtxSetCurrent", unsafe { (self.set_current)(context.handle) })?;
        Ok(context)
    }
}

/// A device that can be used. Bound to its thread by the pointer it has.
pub(crate) struct Context<'a> {
    driver: &'a Driver,
    device: c_int,
    handle: *mut c_void,
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: retained when this was made, released once. What it answers changes nothing any more.
        let _ = unsafe { (self.driver.release)(self.device) };
    }
}

impl Context<'_> {
    /// `len` bytes of the device's memory.
    pub(crate) fn buffer(&self, len: usize) -> Result<Buffer<'_>, CudaError> {
        let mut address = 0;
        // SAFETY: writes one address to where it may.
        check("cuMemAlloc", unsafe { (self.driver.allocate)(&raw mut address, len) })?;
        Ok(Buffer { context: self, address, len })
    }

    /// `len` bytes of main memory that the device reads by itself, all zero.
    pub(crate) fn pinned(&self, len: usize) -> Result<Pinned<'_>, CudaError> {
        let mut start = ptr::null_mut();
        // SAFETY: writes one address to where it may.
        check("cuMemAllocHost", unsafe { (self.driver.allocate_host)(&raw mut start, len) })?;
        let pinned = Pinned { context: self, start: start.cast(), len };
        // SAFETY: `len` bytes from `start` were allocated above and belong to nobody else.
        unsafe { ptr::write_bytes(pinned.start, 0, len) };
        Ok(pinned)
    }
}

/// Memory of a device.
pub(crate) struct Buffer<'a> {
    context: &'a Context<'a>,
    address: Address,
    len: usize,
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated when this was made, freed once. What it answers changes nothing any more.
        let _ = unsafe { (self.context.driver.free)(self.address) };
    }
}

impl Buffer<'_> {
    /// Its bytes.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Copies to the start of this memory, and waits until it is there.
    ///
    /// # Panics
    /// If `from` is longer than this.
    pub(crate) fn fill(&mut self, from: &[u8]) -> Result<(), CudaError> {
        assert!(from.len() <= self.len, "a copy must fit");
        let driver = self.context.driver;
        // SAFETY: `from` is that long, and so is this memory (checked above); the next call waits for the end.
        let code = unsafe { (driver.copy_in)(self.address, from.as_ptr().cast(), from.len()) };
        check("cuMemcpyHtoD", code)?;
        // SAFETY: takes nothing; this thread's context is the current one.
        check("cuCtxSynchronize", unsafe { (driver.synchronize)() })
    }

    /// Copies from the start of this memory; it is there when this returns.
    ///
    /// # Panics
    /// If `to` is longer than this.
    pub(crate) fn read(&self, to: &mut [u8]) -> Result<(), CudaError> {
        assert!(to.len() <= self.len, "a copy must fit");
        let driver = self.context.driver;
        // SAFETY: `to` is that long, and so is this memory (checked above); the call waits for the end.
        let code = unsafe { (driver.copy_out)(to.as_mut_ptr().cast(), self.address, to.len()) };
        check("cuMemcpyDtoH", code)
    }
}

/// Main memory that cannot be swapped out.
pub(crate) struct Pinned<'a> {
    context: &'a Context<'a>,
    start: *mut u8,
    len: usize,
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated when this was made, freed once. What it answers changes nothing any more.
        let _ = unsafe { (self.context.driver.free_host)(self.start.cast()) };
    }
}

impl Pinned<'_> {
    /// Its bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `len` bytes from `start` live as long as this, were written when it was made, and are borrowed with it.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}
