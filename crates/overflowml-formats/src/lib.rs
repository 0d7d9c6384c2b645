//! Model files to values: safetensors headers, sharded indexes and Hugging Face folders become a
//! [`Manifest`](overflowml_types::Manifest), `config.json` becomes a
//! [`DecoderSpec`](overflowml_types::DecoderSpec).
//!
//! Every parser is a pure function from bytes to a value, and treats the bytes as hostile: each
//! claimed size is checked against [`limits`] and the file's length before anything is allocated.
//! Which files a folder must hold is decided over the [`ModelDir`] trait, so it is tested in
//! memory; the only code that asks the operating system is `disk.rs`, and it reads headers and
//! small text files, never weights.
#![forbid(unsafe_code)]

mod bind;
mod config;
mod dir;
mod disk;
mod error;
#[doc(hidden)]
pub mod fixture;
mod generation;
pub mod gguf;
mod groups;
mod index;
pub mod limits;
mod model;
mod paper;
mod profile;
pub mod safetensors;
mod weights;

pub use bind::{BindError, bind, unused_tensors};
pub use config::{Config, ConfigError, parse_config, supported_architectures};
pub use dir::{FileProblem, ModelDir, OpenFile};
pub use disk::{open_gguf, open_model, open_profile, open_weights};
pub use error::FormatError;
pub use generation::{GenerationDefaults, parse_generation_config};
pub use gguf::{
    GgmlType, Gguf, GgufError, GgufModel, GgufModelTensor, GgufTensor, GgufValue, open_gguf_in,
    parse_gguf,
};
pub use index::{Index, IndexError, parse_index};
pub use model::{Model, ModelFiles, open_model_in};
pub use profile::{profile_in, weights_in};
pub use safetensors::{Header, HeaderBuilder, HeaderError, HeaderTensor};
