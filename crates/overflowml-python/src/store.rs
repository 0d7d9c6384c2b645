//! A store of weights, and the memory that it gives.

use std::path::PathBuf;

use overflowml::stream::{DirectIo, GroupRequest, GroupStore};
use overflowml::{Bytes, FileId, FileSpan};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};

use crate::{dlpack, errors};

/// A span as Python gives it: index of the file, offset and length in bytes.
type SpanTuple = (u32, u64, u64);

/// Weights on disk, brought to memory by group: some stay, the others rotate through slots, read ahead of use.
#[pyclass(frozen, module = "overflowml._native")]
pub(crate) struct WeightStore {
    store: GroupStore,
}

#[pymethods]
impl WeightStore {
    /// Allocates what stays and the slots, and starts to read.
    #[new]
    #[pyo3(signature = (files, groups, resident, order, slots, cyclic = true, *, readers = 4, direct = true))]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn new(
        py: Python<'_>,
        files: Vec<PathBuf>,
        groups: Vec<Vec<SpanTuple>>,
        resident: Vec<usize>,
        order: Vec<usize>,
        slots: usize,
        cyclic: bool,
        readers: usize,
        direct: bool,
    ) -> PyResult<Self> {
        let span = |(file, offset, len)| FileSpan {
            file: FileId(file),
            offset: Bytes::new(offset),
            len: Bytes::new(len),
        };
        let request = GroupRequest {
            files,
            groups: groups.into_iter().map(|group| group.into_iter().map(span).collect()).collect(),
            resident,
            order,
            slots,
            cyclic,
            readers,
            direct: if direct { DirectIo::Auto } else { DirectIo::Never },
        };
        let store = py.detach(|| GroupStore::open(&request));
        Ok(Self { store: store.map_err(|error| errors::stream(&error))? })
    }

    /// A group that stays; waits until it is read.
    fn resident(&self, py: Python<'_>, group: usize) -> PyResult<Slab> {
        if group < self.store.groups() && !self.store.is_resident(group) {
            return Err(errors::argument(&format!("group {group} is not resident")));
        }
        self.acquire(py, group)
    }

    /// Waits until a group is in memory, and keeps it there until `release`.
    fn acquire(&self, py: Python<'_>, group: usize) -> PyResult<Slab> {
        let slab = py.detach(|| self.store.acquire(group));
        Ok(Slab { slab: slab.map_err(|error| errors::stream(&error))? })
    }

    /// Gives back what `acquire` gave: the slot may be used for another group.
    fn release(&self, py: Python<'_>, group: usize) -> PyResult<()> {
        py.detach(|| self.store.release(group)).map_err(|error| errors::stream(&error))
    }

    /// What was read so far, and what memory is in use.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let now = self.store.counters();
        let counters = PyDict::new(py);
        counters.set_item("weights_read_bytes", now.weights_read.get())?;
        counters.set_item("bytes_read", now.bytes_read.get())?;
        counters.set_item("reads", now.reads)?;
        counters.set_item("most_reads_in_flight", now.most_in_flight)?;
        counters.set_item("read_seconds", now.reading.as_secs_f64())?;
        counters.set_item("acquired", now.acquired)?;
        counters.set_item("misses", now.misses)?;
        counters.set_item("stall_seconds", now.stall.as_secs_f64())?;
        counters.set_item("host_bytes", now.host.get())?;
        counters.set_item("host_peak_bytes", now.host_peak.get())?;
        counters.set_item("resident_bytes", now.resident.get())?;
        counters.set_item("bytes_per_pass", now.bytes_per_pass.get())?;
        counters.set_item("weights_per_pass_bytes", now.weights_per_pass.get())?;
        counters.set_item("direct", now.buffered_because.is_none())?;
        counters.set_item("buffered_because", now.buffered_because)?;
        Ok(counters)
    }

    /// Ends reading; slabs keep their memory. Closing twice is closing once.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.store.close());
    }
}

/// A group in memory: `torch.from_dlpack(slab)` is its bytes as a tensor that keeps the memory alive.
///
/// Between `acquire` and `release` the bytes are the group's; afterwards they may become another group's.
#[pyclass(frozen, module = "overflowml._native")]
pub(crate) struct Slab {
    slab: overflowml::stream::Slab,
}

#[pymethods]
impl Slab {
    /// Where the memory begins, at a multiple of the page size.
    #[getter]
    fn address(&self) -> usize {
        self.slab.start().as_ptr().addr()
    }

    /// How many bytes, the sectors around the group's spans included.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.slab.len().get()
    }

    /// Offset in the slab and length of each span, in the order of the group.
    fn spans(&self) -> Vec<(u64, u64)> {
        let places = self.slab.places().iter();
        places.map(|place| (place.offset.get(), place.len.get())).collect()
    }

    fn __len__(&self) -> PyResult<usize> {
        self.slab.len().to_usize().ok_or_else(|| errors::argument("too long to be addressed"))
    }

    /// The bytes by the protocol of <https://dmlc.github.io/dlpack>: one-dimensional, `uint8`, on the CPU.
    #[pyo3(signature = (**_request))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        _request: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        dlpack::capsule(py, self.slab.clone())
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        (dlpack::CPU, 0)
    }
}
