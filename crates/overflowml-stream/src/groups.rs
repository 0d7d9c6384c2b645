//! Weights by group, for a program that computes elsewhere: groups that stay, and groups that rotate through slots.
//!
//! A group is any set of byte spans that is used together, such as a block of a torch module. Unlike a
//! [`Store`](crate::Store), which hands out the rows of one decoder's pass, this one hands out whole groups by number,
//! may be asked out of order, and keeps no more in memory than [`GroupStore::open`] says.

mod layout;
mod memory;
mod reading;
mod rotation;
mod slot;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use overflowml_types::{Bytes, FileSpan, ModelFile};

use crate::error::StreamError;
use crate::files::{DirectIo, Files, Source, SystemFiles};
use layout::Layout;
pub use layout::Place;
pub use memory::Slab;
use reading::Reading;
use rotation::Rotation;

/// Which groups there are, and how they are kept.
#[derive(Clone, Debug)]
pub struct GroupRequest {
    /// The files; [`FileId`](overflowml_types::FileId) indexes them.
    pub files: Vec<PathBuf>,
    /// The spans of each group, in any order, overlapping or not; its number is its place in this list.
    pub groups: Vec<Vec<FileSpan>>,
    /// The groups that are read once and stay.
    pub resident: Vec<usize>,
    /// The groups that rotate, in order of use in one pass; a group may come several times. Resident ones are passed over.
    pub order: Vec<usize>,
    /// Slots that they rotate through. Each is as large as the largest group that rotates.
    pub slots: usize,
    /// Whether passes follow one another, so that reading goes on with the next.
    pub cyclic: bool,
    /// Reads that are under way at once.
    pub readers: usize,
    /// Whether to read past the page cache.
    pub direct: DirectIo,
}

impl Default for GroupRequest {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            groups: Vec::new(),
            resident: Vec::new(),
            order: Vec::new(),
            slots: 2,
            cyclic: true,
            readers: 4,
            direct: DirectIo::Auto,
        }
    }
}

/// What a [`GroupStore`] has read, and how long it was waited for, since it was opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupCounters {
    /// Weights that were read.
    pub weights_read: Bytes,
    /// What was read for that: direct reads take whole sectors.
    pub bytes_read: Bytes,
    /// Reads.
    pub reads: u64,
    /// The most of them that were under way at once.
    pub most_in_flight: usize,
    /// Time during which at least one was under way.
    pub reading: Duration,
    /// Groups that were asked for.
    pub acquired: u64,
    /// Of those, the ones that were not next in order.
    pub misses: u64,
    /// Time that was waited for groups.
    pub stall: Duration,
    /// Memory for weights now: groups that stay, slots, groups outside the order that are held.
    pub host: Bytes,
    /// The most of it.
    pub host_peak: Bytes,
    /// Of it, groups that stay.
    pub resident: Bytes,
    /// What one pass over the order reads if none of its groups are still in a slot.
    pub bytes_per_pass: Bytes,
    /// The weights in that.
    pub weights_per_pass: Bytes,
    /// Why the page cache is not bypassed; `None` if it is.
    pub buffered_because: Option<String>,
}

/// Groups of weights in memory: some stay, the others are read ahead of use into slots that rotate.
///
/// All memory is allocated by [`Self::open`], except for groups that are neither resident nor in the order: such a group
/// gets memory of its own while it is held. May be used from several threads.
pub struct GroupStore {
    reading: Reading,
    layouts: Arc<Vec<Layout>>,
    /// What is known from the start.
    sizes: GroupCounters,
}

impl GroupStore {
    /// Allocates what stays and the slots, and starts to read; returns without waiting for it.
    ///
    /// # Errors
    /// [`StreamError::Layout`] for spans outside their files and groups that do not exist; otherwise if files cannot be
    /// opened, or memory or threads be had.
    pub fn open(request: &GroupRequest) -> Result<Self, StreamError> {
        let files = request.files.iter().map(|path| known(path)).collect::<Result<Vec<_>, _>>()?;
        let system = SystemFiles::open(&files, request.direct)?;
        let buffered_because = system.buffered_because();
        let mut store = Self::from_source(request, &files, Box::new(system))?;
        store.sizes.buffered_because = buffered_because;
        Ok(store)
    }

    /// [`Self::open`], reading from anything.
    pub(crate) fn from_source(
        request: &GroupRequest,
        files: &[ModelFile],
        source: Box<dyn Source>,
    ) -> Result<Self, StreamError> {
        let layouts = layouts(request, files)?;
        let files = Files::new(files, source)?;
        let stays = |group: &usize| request.resident.contains(group);
        let order: Vec<usize> =
            request.order.iter().copied().filter(|group| !stays(group)).collect();
        let resident = sorted(&request.resident);
        let sizes = GroupCounters {
            resident: resident.iter().map(|&group| layouts[group].size()).sum(),
            bytes_per_pass: order.iter().map(|&group| layouts[group].size()).sum(),
            weights_per_pass: order.iter().map(|&group| layouts[group].weights()).sum(),
            ..GroupCounters::default()
        };
        let layouts = Arc::new(layouts);
        let rotation = Rotation::new(&layouts, &resident, order, request.slots, request.cyclic)?;
        let reading = Reading::start(files, Arc::clone(&layouts), rotation, request.readers)?;
        Ok(Self { reading, layouts, sizes })
    }

    /// Waits until `group` is in memory, and keeps it there until [`Self::release`].
    ///
    /// A resident group needs no release. One that is not next in the order is read at once, and reading ahead goes on
    /// behind it. After an error the group may be asked for again.
    ///
    /// # Errors
    /// If reading fails, the store is closed, there is no such group, or every slot is held.
    pub fn acquire(&self, group: usize) -> Result<Slab, StreamError> {
        self.check(group)?;
        self.reading.acquire(group)
    }

    /// Gives back what [`Self::acquire`] gave, once: the memory may from now on be written to.
    ///
    /// # Errors
    /// [`StreamError::Order`] if the group is not held.
    pub fn release(&self, group: usize) -> Result<(), StreamError> {
        self.check(group)?;
        self.reading.release(group)
    }

    /// What was read so far.
    pub fn counters(&self) -> GroupCounters {
        GroupCounters {
            resident: self.sizes.resident,
            bytes_per_pass: self.sizes.bytes_per_pass,
            weights_per_pass: self.sizes.weights_per_pass,
            buffered_because: self.sizes.buffered_because.clone(),
            ..self.reading.counters()
        }
    }

    /// Whether `group` stays.
    pub fn is_resident(&self, group: usize) -> bool {
        self.reading.is_resident(group)
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        self.layouts.len()
    }

    /// Ends reading. Whoever waits is told, and nothing can be acquired any more; slabs that were given out keep their
    /// memory. Closing twice is closing once.
    pub fn close(&self) {
        self.reading.close();
    }

    fn check(&self, group: usize) -> Result<(), StreamError> {
        match group < self.layouts.len() {
            true => Ok(()),
            false => Err(no_such_group(group, self.layouts.len())),
        }
    }
}

fn no_such_group(group: usize, groups: usize) -> StreamError {
    StreamError::Layout { what: format!("there is no group {group}: there are {groups}") }
}

fn known(path: &Path) -> Result<ModelFile, StreamError> {
    let failed = |source| StreamError::Open { path: path.to_owned(), source };
    let size = Bytes::new(std::fs::metadata(path).map_err(failed)?.len());
    Ok(ModelFile { path: path.to_owned(), size })
}

/// Where the spans of every group lie in memory; fails for what does not fit the files.
fn layouts(request: &GroupRequest, files: &[ModelFile]) -> Result<Vec<Layout>, StreamError> {
    let count = request.groups.len();
    let named = request.resident.iter().chain(&request.order);
    if let Some(&missing) = named.clone().find(|&&group| group >= count) {
        return Err(no_such_group(missing, count));
    }
    let layouts: Vec<Layout> = (request.groups.iter())
        .map(|spans| Layout::of(spans, files))
        .collect::<Result<_, StreamError>>()?;
    let rotating = request.order.iter().any(|group| !request.resident.contains(group));
    if rotating && request.slots == 0 {
        return Err(StreamError::Layout { what: "groups cannot rotate without a slot".to_owned() });
    }
    Ok(layouts)
}

/// In the order of the files, each once.
fn sorted(groups: &[usize]) -> Vec<usize> {
    let mut sorted = groups.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    sorted
}

#[cfg(test)]
mod tests;
