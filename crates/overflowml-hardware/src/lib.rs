//! overflowml-hardware
