//! Errors as Python knows them: one class per kind of remedy, each also the built-in class that fits.

use overflowml::{Error, StreamError};
use overflowml_cli::DocumentError;
use pyo3::exceptions::{PyException, PyMemoryError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

/// Our exception classes.
struct Classes {
    base: Py<PyType>,
    infeasible: Py<PyType>,
    model: Py<PyType>,
    read: Py<PyType>,
    closed: Py<PyType>,
    argument: Py<PyType>,
}

/// Which class an error is of.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// None of the others.
    Other,
    /// It does not fit in memory.
    Infeasible,
    /// A model is missing, damaged or of an unsupported kind.
    Model,
    /// Weights could not be read.
    Read,
    /// The store was closed.
    Closed,
    /// A wrong argument.
    Argument,
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

fn classes(py: Python<'_>) -> PyResult<&Classes> {
    CLASSES.get_or_try_init(py, || make(py))
}

fn make(py: Python<'_>) -> PyResult<Classes> {
    let class = |name: &str, bases: Bound<'_, PyTuple>, text: &str| -> PyResult<Py<PyType>> {
        let members = PyDict::new(py);
        members.set_item("__module__", "overflowml")?;
        members.set_item("__doc__", text)?;
        members.set_item("code", "")?;
        members.set_item("hint", py.None())?;
        let made = py.get_type::<PyType>().call1((name, bases, members))?;
        Ok(made.cast_into::<PyType>()?.unbind())
    };
    let exception = PyTuple::new(py, [py.get_type::<PyException>()])?;
    let text = "Anything that OverflowML refuses or fails at: `code` is a stable name, `hint` says what to change.";
    let base = class("OverflowmlError", exception, text)?;
    let also = |other| PyTuple::new(py, [base.bind(py), &other]);
    let value = || also(py.get_type::<PyValueError>());
    Ok(Classes {
        infeasible: class(
            "Infeasible",
            also(py.get_type::<PyMemoryError>())?,
            "It does not fit; the message names the smallest budget that works.",
        )?,
        model: class("ModelError", value()?, "A model is missing, damaged or not supported.")?,
        read: class("ReadError", also(py.get_type::<PyOSError>())?, "Weights cannot be read.")?,
        closed: class("ClosedError", value()?, "The weights were closed.")?,
        argument: class("ArgumentError", value()?, "An argument is not understood.")?,
        base,
    })
}

/// Adds the classes to the module.
pub(crate) fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let all = classes(module.py())?;
    module.add("OverflowmlError", &all.base)?;
    module.add("Infeasible", &all.infeasible)?;
    module.add("ModelError", &all.model)?;
    module.add("ReadError", &all.read)?;
    module.add("ClosedError", &all.closed)?;
    module.add("ArgumentError", &all.argument)
}

/// An error as an exception that can be raised.
pub(crate) fn raise(kind: Kind, message: &str, code: &str, hint: Option<&str>) -> PyErr {
    Python::attach(|py| {
        let made = classes(py).and_then(|all| {
            let class = match kind {
                Kind::Other => &all.base,
                Kind::Infeasible => &all.infeasible,
                Kind::Model => &all.model,
                Kind::Read => &all.read,
                Kind::Closed => &all.closed,
                Kind::Argument => &all.argument,
            };
            let error = class.bind(py).call1((message,))?;
            error.setattr("code", code)?;
            error.setattr("hint", hint)?;
            Ok(error)
        });
        made.map_or_else(|error| error, PyErr::from_value)
    })
}

fn kind_of(error: &Error) -> Kind {
    match error {
        Error::Infeasible(_) | Error::MemoryTaken { .. } => Kind::Infeasible,
        Error::Stream(error) => kind_of_stream(error),
        Error::Format(_) | Error::Hub(_) | Error::Text(_) => Kind::Model,
        _ => Kind::Other,
    }
}

fn kind_of_stream(error: &StreamError) -> Kind {
    match error {
        StreamError::Allocate { .. } => Kind::Infeasible,
        StreamError::Closed => Kind::Closed,
        StreamError::Layout { .. } => Kind::Argument,
        StreamError::Open { .. }
        | StreamError::Read { .. }
        | StreamError::Ended { .. }
        | StreamError::Changed { .. } => Kind::Read,
        _ => Kind::Other,
    }
}

/// An error of the library.
pub(crate) fn library(error: &Error) -> PyErr {
    raise(kind_of(error), &error.to_string(), error.code(), error.hint().as_deref())
}

/// An error of a store.
pub(crate) fn stream(error: &StreamError) -> PyErr {
    raise(kind_of_stream(error), &error.to_string(), error.code(), error.hint().as_deref())
}

/// An error of a command.
pub(crate) fn document(error: &DocumentError) -> PyErr {
    let kind = match error {
        DocumentError::Failed(_) => error.library().map_or(Kind::Model, kind_of),
        _ => Kind::Argument,
    };
    raise(kind, &error.to_string(), error.code(), error.hint().as_deref())
}

/// An argument of the wrong form.
pub(crate) fn argument(message: &str) -> PyErr {
    raise(Kind::Argument, message, "python.argument", None)
}
