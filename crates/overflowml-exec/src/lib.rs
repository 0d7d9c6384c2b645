//! overflowml-exec
