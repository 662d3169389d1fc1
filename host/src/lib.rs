//! placeholder

pub mod artifacts;
