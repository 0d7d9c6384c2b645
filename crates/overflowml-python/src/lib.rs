//! `overflowml._native`: the Rust half of the Python package.
//!
//! Translation only: numbers, strings, memory and JSON text cross here, and what they mean is decided in `overflowml`
//! and `overflowml-cli`. Whatever may block lets go of the interpreter.

mod command;
mod dlpack;
mod errors;
mod model;
mod options;
mod store;

use pyo3::prelude::*;

#[pymodule(name = "_native")]
mod native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::command::{can_run, detect, doctor, inspect, main, plan};
    #[pymodule_export]
    use crate::model::{download, open_model, place};
    #[pymodule_export]
    use crate::store::{Slab, WeightStore};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        crate::errors::add_to(module)
    }
}
