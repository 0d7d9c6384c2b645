//! overflowml-formats
