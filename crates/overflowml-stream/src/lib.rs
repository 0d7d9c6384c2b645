//! overflowml-stream
