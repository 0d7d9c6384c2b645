//! The words that every OverflowML crate shares, as data and arithmetic.
//!
//! A [`Manifest`] says what is in a model's files, a [`DecoderSpec`] what its decoder computes, a
//! [`Machine`] what the hardware is. Nothing here touches the operating system, a clock or a file,
//! and nothing here decides anything: that is `overflowml-plan`.
#![forbid(unsafe_code)]

mod bytes;
mod decoder;
mod dtype;
mod footprint;
mod layout;
mod machine;
mod manifest;
mod mixture;
mod profile;
mod rate;
mod routed;
mod support;

pub use bytes::{Bytes, ParseBytesError};
pub use decoder::{
    Activation, DecoderSpec, LayerSpec, Norms, QkNorm, RopeScaling, RopeSpec, Scales,
};
pub use dtype::DType;
pub use footprint::{ExpertScratch, KvLayout, LatentScratch, LogitsWanted, ScratchLayout};
pub use layout::{Access, ExpertPart, LayerPart, PassWeight, Slice, WeightRole, WeightSpec};
pub use machine::{
    Basis, CgroupLimit, Container, Cpu, Disk, DiskKind, Gpu, GpuProcess, IsaExtension, Known,
    Library, Link, Machine, Memory, NumaNode, Pool, Vendor,
};
pub use manifest::{Component, FileId, FileSpan, Group, GroupKind, Manifest, ModelFile, Tensor};
pub use mixture::{
    ExpertGroups, ExpertNames, ExpertStorage, ExpertsSpec, LatentSpec, RouterSpec, Scoring,
    SharedExpert,
};
pub use profile::{
    CacheElement, ComponentProfile, Experts, GroupProfile, LayerCache, ModelProfile, ProfileSource,
    Role, Shape, Task,
};
pub use rate::{BytesPerSecond, Seconds};
pub use support::{DTypeSupport, Fp8Kind, Support};
