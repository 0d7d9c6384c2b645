//! Run AI models larger than your memory.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use overflowml::{Bytes, GenerateOptions, LogitsWanted, Sampling, Session, SessionRequest, Text};
//!
//! let model = overflowml::open("./model".as_ref())?;
//! let text = Text::open(&model)?;
//! let prompt = text.encode("Once upon a time")?;
//! let request = SessionRequest {
//!     memory: Some(Bytes::gib(4)),
//!     ..SessionRequest::new(prompt.len(), 64, LogitsWanted::Last)
//! };
//! let mut session = Session::open(&model, &request, &mut |_, _| {})?;
//! let options = GenerateOptions::new(&model, &text, Sampling::greedy(), 64, false);
//! let mut stream = text.stream();
//! session.generate(&prompt, &options, &AtomicBool::new(false), &mut |token| {
//!     print!("{}", stream.push(token));
//! })?;
//! # Ok::<(), overflowml::Error>(())
//! ```
//!
//! The order is always look ([`open`], [`probe`]) → know ([`inspect()`]) → decide ([`Planner`]) →
//! run ([`Session`]).
#![forbid(unsafe_code)]

pub mod batch;
pub mod calibration;
pub mod device;
pub mod doctor;
mod error;
pub mod hub;
mod inspect;
mod overhead;
mod paths;
mod planner;
mod profile;
mod report;
mod session;
mod stored;
pub mod synth;
pub mod text;
pub mod torch;

pub use error::Error;
pub use hub::local as local_path;
pub use inspect::{GroupSize, Inspection, Stage, inspect};
pub use overflowml_exec::Sampling;
pub use overflowml_formats::{GenerationDefaults, Model, supported_architectures};
pub use overflowml_hardware::{ProbeOptions, catalogue, probe, restart, restarts_as, serve_probe};
pub use overflowml_plan::{Infeasible, Plan, rules};
pub use overflowml_stream::{self as stream, StreamError};
pub use overflowml_types::*;
pub use paths::{cache_dir, fetch, look, open};
pub use planner::{Planner, SessionRequest};
pub use profile::profile;
pub use report::{BatchReport, IoReport, MemoryReport, RunReport, ScoreReport, StoppedBy, Timings};
pub use session::{GenerateOptions, Generation, Session};
pub use stored::stored_weights;
pub use text::{ChatMessage, Role, Text, TextStream};
