//! overflowml
