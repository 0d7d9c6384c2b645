//! Memory for torch, numpy and others by the DLPack protocol, which works in every supported Python (the buffer
//! protocol is not in the stable interface before 3.11).
//!
//! The structs below are the protocol's own, in its version without a version number, which every consumer reads.

use std::ffi::{CStr, c_void};
use std::ptr;

use overflowml::stream::Slab;
use pyo3::ffi::{PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

/// `kDLCPU`.
pub(crate) const CPU: i32 = 1;

/// `kDLUInt`.
const UNSIGNED: u8 = 1;

/// What a capsule is called until somebody takes what is in it.
const NAME: &CStr = c"dltensor";

#[repr(C)]
struct Device {
    kind: i32,
    id: i32,
}

#[repr(C)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device: Device,
    dimensions: i32,
    dtype: DataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    tensor: Tensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

/// A tensor that was lent, with what it needs to live.
#[repr(C)]
struct Loan {
    /// First: a pointer to the loan is a pointer to it.
    managed: Managed,
    shape: [i64; 1],
    _slab: Slab,
}

/// A capsule that lends the bytes of `slab`.
pub(crate) fn capsule(py: Python<'_>, slab: Slab) -> PyResult<Bound<'_, PyCapsule>> {
    let loan = lend(slab);
    // SAFETY: the interpreter is attached; the pointer is not null, and the name lives for ever. The capsule owns the
    // loan from here on: `unclaimed` or whoever takes the tensor ends it.
    let made = unsafe { PyCapsule_New(loan.cast(), NAME.as_ptr(), Some(unclaimed)) };
    if made.is_null() {
        // SAFETY: nobody else has seen the loan.
        unsafe { give_back(loan) };
        return Err(PyErr::fetch(py));
    }
    // SAFETY: a new reference to an object, checked above.
    let object = unsafe { Bound::from_owned_ptr(py, made) };
    Ok(object.cast_into::<PyCapsule>()?)
}

fn lend(slab: Slab) -> *mut Managed {
    let tensor = Tensor {
        data: slab.start().as_ptr().cast(),
        device: Device { kind: CPU, id: 0 },
        dimensions: 1,
        dtype: DataType { code: UNSIGNED, bits: 8, lanes: 1 },
        shape: ptr::null_mut(),
        strides: ptr::null_mut(),
        byte_offset: 0,
    };
    let shape = [i64::try_from(slab.len().get()).unwrap_or(i64::MAX)];
    let managed = Managed { tensor, context: ptr::null_mut(), deleter: Some(give_back) };
    let loan = Box::into_raw(Box::new(Loan { managed, shape, _slab: slab }));
    // SAFETY: `loan` was just made and is not shared; its shape moves no more, now that it is in its box.
    let shape = unsafe { ptr::addr_of_mut!((*loan).shape) };
    // SAFETY: as above.
    unsafe { (*loan).managed.tensor.shape = shape.cast() };
    loan.cast()
}

/// Ends a loan. Called once, by whoever took the tensor, on any thread, with or without the interpreter.
///
/// # Safety
/// `managed` must come from [`lend`] and not be used any more.
unsafe extern "C" fn give_back(managed: *mut Managed) {
    // SAFETY: `managed` is the first field of the `Loan` that `lend` made, in a layout that keeps it first, and the
    // protocol calls this once.
    drop(unsafe { Box::from_raw(managed.cast::<Loan>()) });
}

/// Ends the loan of a capsule whose tensor nobody took: taking it renames the capsule.
///
/// # Safety
/// As Python calls it, with a capsule that is going away.
unsafe extern "C" fn unclaimed(capsule: *mut PyObject) {
    // SAFETY: Python gives a capsule, and the interpreter is attached.
    if unsafe { PyCapsule_IsValid(capsule, NAME.as_ptr()) } == 0 {
        return;
    }
    // SAFETY: as above; the name is the capsule's.
    let managed = unsafe { PyCapsule_GetPointer(capsule, NAME.as_ptr()) };
    // SAFETY: the pointer came from `lend`, and nobody took it.
    unsafe { give_back(managed.cast()) };
}
